//! Jinja's filters, where the engine's differ or could do unbounded work.

use std::sync::Arc;

use minijinja::{
    Environment, Error, State, Value, filters,
    value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, StringInput, ValueKind, ValueOrKwargs},
};

use super::{
    arguments::Arguments,
    json::tojson,
    methods,
    operators::printf,
    texts,
    values::{check_size, failed, text, type_name},
};

/// Widest indentation or field.
const MAX_WIDTH: usize = 10_000;

type Result<T> = std::result::Result<T, Error>;

/// What `map` and `select` return: iterable, but not a list.
#[derive(Debug)]
struct Generator(Vec<Value>);

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.clone())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.0.len())
    }
}

/// An argument that must be a text; the engine would make one of any value.
fn word(value: Option<Value>) -> Result<Option<String>> {
    match value.filter(|value| !value.is_none()) {
        None => Ok(None),
        Some(value) => match value.as_str() {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(failed(format!("a filter wants a str, not {}", type_name(&value)))),
        },
    }
}

/// Adds the filters to `environment`.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |state: &State<'_, '_>, value: Value| text(state, &value));
    environment.add_filter("upper", |state: &State<'_, '_>, value: Value| {
        text(state, &value).map(|it| it.to_uppercase())
    });
    environment.add_filter("lower", |state: &State<'_, '_>, value: Value| {
        text(state, &value).map(|it| it.to_lowercase())
    });
    environment.add_filter("title", title);
    environment.add_filter("capitalize", capitalize);
    environment.add_filter("trim", |state: &State<'_, '_>, value: Value, chars: Option<Value>| {
        let chars = word(chars)?;
        text(state, &value).map(|it| texts::strip(&it, chars.as_deref(), true, true).to_owned())
    });
    environment.add_filter("replace", replace);
    environment.add_filter("indent", indent);
    environment.add_filter("center", center);
    environment.add_filter("truncate", truncate);
    environment.add_filter("wordcount", |state: &State<'_, '_>, value: Value| {
        let separates = |c: char| c != '_' && !c.is_alphanumeric();
        text(state, &value).map(|it| it.split(separates).filter(|word| !word.is_empty()).count())
    });
    environment.add_filter("urlencode", |state: &State<'_, '_>, value: Value| {
        text(state, &value).map(|it| quoted(&it))
    });
    environment.add_filter("safe", |state: &State<'_, '_>, value: Value| {
        text(state, &value).map(Value::from_safe_string)
    });
    for name in ["escape", "e", "forceescape"] {
        environment.add_filter(name, |state: &State<'_, '_>, value: Value| {
            text(state, &value).map(|it| Value::from_safe_string(texts::escaped(&it)))
        });
    }
    environment.add_filter("format", |state: &State<'_, '_>, arguments: Rest<ValueOrKwargs>| {
        let arguments = arguments.into_values();
        let Some((pattern, arguments)) = arguments.split_first() else {
            return Err(failed("format wants a text"));
        };
        printf(state, &text(state, pattern)?, arguments)
    });
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("attr", |value: Value, name: Value| {
        let name = word(Some(name))?.unwrap_or_default();
        // Of an object; never an item of a dictionary or a list.
        if matches!(value.kind(), ValueKind::Map | ValueKind::Seq) {
            Ok(Value::UNDEFINED)
        } else {
            value.get_attr(&name)
        }
    });
    // Jinja has none of these.
    for name in ["split", "lines", "bool", "chain", "zip"] {
        environment.remove_filter(name);
    }
    add_walking(environment);
    add_lazy(environment);
}

/// Filters that walk, print or compare values: first it is made sure that this terminates.
fn add_walking(environment: &mut Environment<'static>) {
    environment.add_filter(
        "join",
        |state: &mut State<'_, '_>,
         value: Value,
         joiner: Option<Value>,
         attribute: Option<Value>,
         named: Kwargs| {
            let joiner = word(joiner.or(named.get::<Option<Value>>("d")?))?.unwrap_or_default();
            let attribute = word(attribute.or(named.get::<Option<Value>>("attribute")?))?;
            named.assert_all_used()?;
            join(state, &value, &joiner, attribute.as_deref())
        },
    );
    environment.add_filter("dictsort", dictsort);
    environment.add_filter("list", |state: &State<'_, '_>, value: Value| {
        not_none(&value)?;
        filters::list(state, value)
    });
    for name in ["sort", "unique", "groupby", "min", "max", "sum", "pprint", "batch", "slice"] {
        let builtin = match name {
            "sort" => Value::from_function(filters::sort),
            "unique" => Value::from_function(filters::unique),
            "groupby" => Value::from_function(filters::groupby),
            "min" => Value::from_function(filters::min),
            "max" => Value::from_function(filters::max),
            "sum" => Value::from_function(filters::sum),
            "batch" => Value::from_function(filters::batch),
            "slice" => Value::from_function(filters::slice),
            _ => Value::from_function(filters::pprint),
        };
        environment.add_filter(name, move |state: &mut State<'_, '_>, arguments: Rest<ValueOrKwargs>| {
            let arguments = arguments.into_values();
            for argument in &arguments {
                check_size(state, argument)?;
            }
            arguments.first().map_or(Ok(()), not_none)?;
            builtin.call(state, &arguments)
        });
    }
}

/// Filters that return a generator in Python.
fn add_lazy(environment: &mut Environment<'static>) {
    for name in ["map", "select", "reject", "selectattr", "rejectattr"] {
        let builtin = match name {
            "map" => Value::from_function(filters::map),
            "select" => Value::from_function(filters::select),
            "reject" => Value::from_function(filters::reject),
            "selectattr" => Value::from_function(filters::selectattr),
            _ => Value::from_function(filters::rejectattr),
        };
        environment.add_filter(name, move |state: &mut State<'_, '_>, arguments: Rest<ValueOrKwargs>| {
            let mut arguments = arguments.into_values();
            // Names of filters, tests and attributes, and what those compare with.
            for argument in arguments.iter().skip(1) {
                check_size(state, argument)?;
            }
            if let Some(value) = arguments.first_mut() {
                *value = or_empty(std::mem::take(value))?;
            }
            let items = builtin.call(state, &arguments)?;
            Ok::<Value, Error>(Value::from_object(Generator(items.try_iter()?.collect())))
        });
    }
}

/// These filters take any value that is false as having no items.
fn or_empty(value: Value) -> Result<Value> {
    if !value.is_true() {
        return Ok(Value::from(Vec::<Value>::new()));
    }
    not_none(&value)?;
    Ok(value)
}

fn not_none(value: &Value) -> Result<()> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Number => {
            Err(failed(format!("'{}' object is not iterable", type_name(value))))
        }
        _ => Ok(()),
    }
}

fn join(state: &mut State<'_, '_>, value: &Value, joiner: &str, attribute: Option<&str>) -> Result<String> {
    not_none(value)?;
    let mut joined = String::new();
    for (n, item) in value.try_iter()?.enumerate() {
        let item = match attribute {
            Some(path) => path.split('.').try_fold(item, |item, name| item.get_attr(name))?,
            None => item,
        };
        let item = text(state, &item)?;
        state.consume_fuel(1 + (joiner.len() + item.len()) as u64 / 16)?;
        joined.push_str(if n > 0 { joiner } else { "" });
        joined.push_str(&item);
    }
    Ok(joined)
}

fn title(state: &State<'_, '_>, value: Value) -> Result<String> {
    Ok(filters::title(text(state, &value)?.into()))
}

fn capitalize(state: &State<'_, '_>, value: Value) -> Result<Value> {
    let value = Value::from(text(state, &value)?);
    Ok(filters::capitalize(StringInput::new(state, &value)?))
}

fn replace(state: &State<'_, '_>, value: Value, arguments: Rest<ValueOrKwargs>) -> Result<Value> {
    let arguments = arguments.into_values();
    let given = Arguments::new(&arguments)?;
    let argument = |at, name| given.get(at, name).ok_or_else(|| failed("replace wants two texts"));
    let (old, new) = (text(state, &argument(0, "old")?)?, text(state, &argument(1, "new")?)?);
    methods::replace(state, &text(state, &value)?, &old, &new, given.integer(2, "count")?)
}

/// `indent(width=4, first=False, blank=False)`.
fn indent(state: &State<'_, '_>, value: Value, arguments: Rest<ValueOrKwargs>) -> Result<String> {
    let arguments = arguments.into_values();
    let given = Arguments::new(&arguments)?;
    let unit = match given.get(0, "width") {
        Some(width) if width.as_str().is_some() => width.as_str().unwrap_or_default().to_owned(),
        _ => " ".repeat(width(given.integer(0, "width")?.unwrap_or(4))?),
    };
    let (first, blank) = (given.flag(1, "first"), given.flag(2, "blank"));
    // Jinja adds a line's end, so that the last line counts even if it is empty.
    let lines = texts::lines(&(text(state, &value)? + "\n"), false);
    state.consume_fuel((lines.len() * (unit.len() + 1)) as u64 / 16)?;
    let mut indented = String::new();
    for (n, line) in lines.iter().enumerate() {
        indented.push_str(if n > 0 { "\n" } else { "" });
        if if n == 0 { first } else { blank || !line.is_empty() } {
            indented.push_str(&unit);
        }
        indented.push_str(line);
    }
    Ok(indented)
}

fn width(width: i64) -> Result<usize> {
    match usize::try_from(width.max(0)) {
        Ok(width) if width <= MAX_WIDTH => Ok(width),
        _ => Err(failed(format!("a width of more than {MAX_WIDTH}"))),
    }
}

fn center(state: &State<'_, '_>, value: Value, wide: Option<i64>) -> Result<String> {
    Ok(texts::padded(&text(state, &value)?, "center", width(wide.unwrap_or(80))?, ' '))
}

/// `truncate(length=255, killwords=False, end='...', leeway=5)`.
fn truncate(state: &State<'_, '_>, value: Value, arguments: Rest<ValueOrKwargs>) -> Result<String> {
    let arguments = arguments.into_values();
    let given = Arguments::new(&arguments)?;
    let whole = text(state, &value)?;
    let length = usize::try_from(given.integer(0, "length")?.unwrap_or(255)).unwrap_or_default();
    let end = given.text(2, "end")?.unwrap_or_else(|| "...".into());
    let leeway = usize::try_from(given.integer(3, "leeway")?.unwrap_or(5)).unwrap_or_default();
    if whole.chars().count() <= length.saturating_add(leeway) {
        return Ok(whole);
    }
    let kept: String = whole.chars().take(length.saturating_sub(end.chars().count())).collect();
    let words = kept.rsplit_once(' ').map(|(words, _)| words).filter(|_| !given.flag(1, "killwords"));
    Ok(format!("{}{end}", words.unwrap_or(&kept)))
}

/// Percent-encoding, as Python's `quote` does it.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"_.-~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// `default(default_value='', boolean=False)`.
fn default(value: Value, arguments: Rest<ValueOrKwargs>) -> Result<Value> {
    let arguments = arguments.into_values();
    let given = Arguments::new(&arguments)?;
    if !value.is_undefined() && (value.is_true() || !given.flag(1, "boolean")) {
        return Ok(value);
    }
    // `None` is a default like any other.
    Ok(match arguments.first().filter(|first| !first.is_kwargs()) {
        Some(value) => value.clone(),
        None => given.get(0, "default_value").unwrap_or_else(|| Value::from("")),
    })
}

fn int(state: &State<'_, '_>, value: Value, arguments: Rest<ValueOrKwargs>) -> Result<Value> {
    let arguments = arguments.into_values();
    let given = Arguments::new(&arguments)?;
    let default = given.get(0, "default").unwrap_or_else(|| Value::from(0));
    let base = given.integer(1, "base")?.and_then(|base| u32::try_from(base).ok());
    let none = || Kwargs::from_iter(std::iter::empty::<(&str, Value)>());
    let found = filters::int(state, &value, Some(default.clone()), base, none());
    Ok(found.unwrap_or(default))
}

fn float(state: &State<'_, '_>, value: Value, arguments: Rest<ValueOrKwargs>) -> Result<Value> {
    let arguments = arguments.into_values();
    let default = Arguments::new(&arguments)?.get(0, "default").unwrap_or_else(|| Value::from(0.0));
    let none = Kwargs::from_iter(std::iter::empty::<(&str, Value)>());
    Ok(filters::float(state, &value, Some(default.clone()), none).unwrap_or(default))
}

/// `dictsort(case_sensitive=False, by='key', reverse=False)`.
fn dictsort(state: &State<'_, '_>, value: Value, arguments: Rest<ValueOrKwargs>) -> Result<Value> {
    check_size(state, &value)?;
    let arguments = arguments.into_values();
    let given = Arguments::new(&arguments)?;
    let by = given.text(1, "by")?.unwrap_or_else(|| "key".into());
    let named = Kwargs::from_iter([
        ("case_sensitive", Value::from(given.flag(0, "case_sensitive"))),
        ("by", Value::from(by)),
        ("reverse", Value::from(given.flag(2, "reverse"))),
    ]);
    filters::dictsort(&value, named)
}
