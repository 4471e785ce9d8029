//! The engine, set up as transformers sets up Jinja.

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, State, Value, functions,
    syntax::SyntaxConfig,
    value::{Kwargs, Rest, ValueKind},
};
use minijinja_contrib::globals;

use super::{
    checks, clock,
    clock::Clock,
    error::{Raised, Unusable},
    filters, methods, operators,
    rewrite::rewritten,
    values::{failed, text},
};

/// The template's name in its environment.
pub(super) const NAME: &str = "chat";

/// Compiles `source` with everything that templates rely on.
///
/// # Errors
/// The template's syntax is wrong.
pub(super) fn environment(source: &str, clock: Clock) -> Result<Environment<'static>, Unusable> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    // With it, an error copies the template and its variables.
    environment.set_debug(false);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(syntax_error)?);
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|out, state, value| match value.as_str() {
        Some(text) => Ok(out.write_str(text)?),
        None => Ok(out.write_str(&text(state, value)?)?),
    });
    add_functions(&mut environment, clock);
    operators::add_to(&mut environment);
    filters::add_to(&mut environment);
    checks::add_to(&mut environment);
    environment.add_template_owned(NAME, rewritten(source)?).map_err(syntax_error)?;
    Ok(environment)
}

fn syntax_error(error: Error) -> Unusable {
    Unusable::Syntax(error.to_string())
}

fn add_functions(environment: &mut Environment<'static>, clock: Clock) {
    environment.add_function(
        "raise_exception",
        |state: &State<'_, '_>, message: Value| -> Result<Value, Error> {
            let message = Raised::new(&text(state, &message)?);
            Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(message))
        },
    );
    environment.add_function("strftime_now", move |format: Value| {
        let format = format.as_str().ok_or_else(|| failed("strftime_now wants a text"))?;
        clock::strftime(clock(), format).map_err(failed)
    });
    environment.add_function("namespace", |state: &State<'_, '_>, defaults: Option<Value>, more: Kwargs| {
        functions::namespace(Some(dict(state, defaults, &more)?.into()))
    });
    environment.add_function("dict", |state: &State<'_, '_>, entries: Option<Value>, more: Kwargs| {
        dict(state, entries, &more)
    });
    environment.add_function("joiner", globals::joiner);
    environment.add_function("cycler", |items: Rest<Value>| globals::cycler(items.to_vec()));
    // It shows what is for the model's operator.
    environment.remove_global("debug");
}

/// Python's `dict`: of a mapping or of pairs, and of named values.
fn dict(state: &State<'_, '_>, entries: Option<Value>, more: &Kwargs) -> Result<Value, Error> {
    let mut all: Vec<(Value, Value)> = Vec::new();
    if let Some(entries) = entries {
        if entries.kind() == ValueKind::Map {
            all.extend(entries.as_object().and_then(|it| it.try_iter_pairs()).into_iter().flatten());
        } else {
            for pair in entries.try_iter()? {
                state.consume_fuel(1)?;
                operators::check_key(state, &pair.get_item_by_index(0)?)?;
                all.push((pair.get_item_by_index(0)?, pair.get_item_by_index(1)?));
            }
        }
    }
    for name in more.args() {
        all.push((Value::from(name), more.peek(name)?));
    }
    Ok(Value::from_pairs(all))
}
