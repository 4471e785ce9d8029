//! The engine, set up as transformers sets up Jinja.

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, State, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, Rest},
};
use minijinja_contrib::globals;

use super::{
    checks, clock,
    clock::Clock,
    dict::{self, Dict},
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
        dict::namespace(state, defaults, &more)
    });
    environment.add_function("_kr_private", |name: String, _value: Value| -> Result<Value, Error> {
        Err(dict::private(&name))
    });
    environment.add_global("dict", Value::from_object(Dict));
    environment.add_function("joiner", globals::joiner);
    environment.add_function("cycler", |items: Rest<Value>| globals::cycler(items.to_vec()));
    // It shows what is for the model's operator.
    environment.remove_global("debug");
}
