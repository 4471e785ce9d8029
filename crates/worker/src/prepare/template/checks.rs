//! Jinja's tests (`x is …`) where the engine's differ or could do unbounded work.

use minijinja::{Environment, Error, State, Value, value::ValueKind};

use super::{operators::compare_two, values::text};

/// Adds the tests to `environment`.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment
        .add_test("number", |value: Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    environment.add_test("iterable", |value: Value| {
        !matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Plain)
    });
    environment.add_test("sequence", |value: Value| {
        // Whatever has a length and items: undefined values, texts and dictionaries too.
        matches!(value.kind(), ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map)
    });
    environment.add_test("callable", |value: Value| {
        // Calling an undefined value is an error, but it can be called.
        value.is_undefined() || value.kind() == ValueKind::Plain
    });
    for (name, upper) in [("upper", true), ("lower", false)] {
        environment.add_test(name, move |state: &State<'_, '_>, value: Value| {
            let text = text(state, &value)?;
            let wrong = |c: char| if upper { c.is_lowercase() } else { c.is_uppercase() };
            let right = |c: char| if upper { c.is_uppercase() } else { c.is_lowercase() };
            Ok::<bool, Error>(text.chars().any(right) && !text.chars().any(wrong))
        });
    }
    // Jinja has none of these.
    for name in ["startingwith", "endingwith", "safe"] {
        environment.remove_test(name);
    }
    for (names, operator) in [
        (["==", "eq", "equalto"], "=="),
        (["!=", "ne", "ne"], "!="),
        (["<", "lt", "lessthan"], "<"),
        (["<=", "le", "le"], "<="),
        ([">", "gt", "greaterthan"], ">"),
        ([">=", "ge", "ge"], ">="),
        (["in", "in", "in"], "in"),
    ] {
        for name in names {
            environment.add_test(name, move |state: &State<'_, '_>, left: Value, right: Value| {
                compare_two(state, &left, operator, &right)
            });
        }
    }
}
