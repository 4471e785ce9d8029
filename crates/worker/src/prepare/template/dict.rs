//! Python's `dict` as templates have it, and the names that a namespace takes.

use std::sync::Arc;

use minijinja::{
    Error, State, Value,
    value::{Kwargs, Object, ObjectRepr, ValueKind},
};

use super::{arguments::Arguments, operators::check_key, values::failed};

/// `dict(…)` and `dict.fromkeys(…)`.
#[derive(Debug)]
pub(super) struct Dict;

impl Object for Dict {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let (entries, more): (Option<Value>, Kwargs) = minijinja::value::from_args(args)?;
        dict(state, entries, &more)
    }

    fn call_method(
        self: &Arc<Self>,
        state: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        if method != "fromkeys" {
            return Err(failed(format!("dict has no method {method:?} for templates")));
        }
        let given = Arguments::new(args)?;
        let keys = given.get(0, "iterable").ok_or_else(|| failed("fromkeys wants keys"))?;
        let value = given.get(1, "value").unwrap_or(Value::from(()));
        let mut entries = Vec::new();
        for key in keys.try_iter()? {
            state.consume_fuel(1)?;
            check_key(state, &key)?;
            entries.push((key, value.clone()));
        }
        Ok(Value::from_pairs(entries))
    }
}

/// Of a mapping or of pairs, and of named values.
pub(super) fn dict(state: &State<'_, '_>, entries: Option<Value>, more: &Kwargs) -> Result<Value, Error> {
    let mut all: Vec<(Value, Value)> = Vec::new();
    if let Some(entries) = entries {
        if entries.kind() == ValueKind::Map {
            all.extend(entries.as_object().and_then(|it| it.try_iter_pairs()).into_iter().flatten());
        } else {
            for pair in entries.try_iter()? {
                state.consume_fuel(1)?;
                check_key(state, &pair.get_item_by_index(0)?)?;
                all.push((pair.get_item_by_index(0)?, pair.get_item_by_index(1)?));
            }
        }
    }
    for name in more.args() {
        all.push((Value::from(name), more.peek(name)?));
    }
    Ok(Value::from_pairs(all))
}

/// `namespace(…)`. transformers lets no name begin with an underscore.
pub(super) fn namespace(
    state: &State<'_, '_>,
    defaults: Option<Value>,
    more: &Kwargs,
) -> Result<Value, Error> {
    let values = dict(state, defaults, more)?;
    for key in values.try_iter()? {
        if let Some(name) = key.as_str().filter(|name| is_private(name)) {
            return Err(private(name));
        }
    }
    minijinja::functions::namespace(Some(values.into()))
}

/// Whether a namespace refuses a value of this name.
pub(super) fn is_private(name: &str) -> bool {
    name.starts_with('_')
}

pub(super) fn private(name: &str) -> Error {
    failed(format!("a namespace takes no name that begins with an underscore, such as {name:?}"))
}
