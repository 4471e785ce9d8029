//! The operators that behave as Python's, and the functions that [`rewrite`](super::rewrite) puts in their place.

use std::cmp::Ordering;

use minijinja::{
    Environment, Error, State, Value,
    formatting::{FormatStyle, format},
    value::{Rest, Tuple, ValueKind},
};

use super::{
    texts,
    values::{check_size, failed, repr, text, type_name},
};

/// Adds them.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_function("_kr_add", add);
    environment.add_function("_kr_concat", concat);
    environment.add_function("_kr_compare", compare);
    environment.add_function("_kr_modulo", modulo);
    environment.add_function("_kr_key", key);
    environment.add_function("_kr_iter", iterable);
}

/// `a + b`: of texts, of lists, of numbers.
fn add(state: &State<'_, '_>, left: Value, right: Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        state.consume_fuel((a.len() + b.len()) as u64 / 64)?;
        // A text that was marked as safe for HTML escapes what is added to it.
        return Ok(match (left.is_safe(), right.is_safe()) {
            (false, false) => Value::from(format!("{a}{b}")),
            (true, false) => Value::from_safe_string(format!("{a}{}", texts::escaped(b))),
            (false, true) => Value::from_safe_string(format!("{}{b}", texts::escaped(a))),
            (true, true) => Value::from_safe_string(format!("{a}{b}")),
        });
    }
    if left.kind() == ValueKind::Seq && right.kind() == ValueKind::Seq && left.is_tuple() == right.is_tuple()
    {
        let len = left.len().unwrap_or_default().saturating_add(right.len().unwrap_or_default());
        state.consume_fuel(len as u64 / 8)?;
        let items: Vec<Value> = left.try_iter()?.chain(right.try_iter()?).collect();
        return Ok(if left.is_tuple() { Value::from(Tuple::from(items)) } else { Value::from(items) });
    }
    if let (Some(a), Some(b)) = (integer(&left), integer(&right)) {
        return a.checked_add(b).map(Value::from).ok_or_else(|| failed("a number is too large"));
    }
    match (number(&left), number(&right)) {
        (Some(a), Some(b)) => Ok(Value::from(a + b)),
        _ if left.is_undefined() || right.is_undefined() => Err(failed("an undefined value can't be added")),
        _ => Err(unsupported("+", &left, &right)),
    }
}

/// `a ~ b ~ c`.
fn concat(state: &State<'_, '_>, parts: Rest<Value>) -> Result<String, Error> {
    let mut joined = String::new();
    for part in parts.iter() {
        match part.as_str() {
            Some(part) => joined.push_str(part),
            None => joined.push_str(&text(state, part)?),
        }
        state.consume_fuel(joined.len() as u64 / 512)?;
    }
    Ok(joined)
}

/// `a < b`, `a in b`, and chains of them: values and operators in turn.
fn compare(state: &State<'_, '_>, parts: Rest<Value>) -> Result<bool, Error> {
    for triple in parts.windows(3).step_by(2) {
        let [left, operator, right] = triple else { continue };
        if !compare_two(state, left, operator.as_str().unwrap_or_default(), right)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// One comparison.
pub(super) fn compare_two(
    state: &State<'_, '_>,
    left: &Value,
    operator: &str,
    right: &Value,
) -> Result<bool, Error> {
    match operator {
        "==" => equal(state, left, right),
        "!=" => Ok(!equal(state, left, right)?),
        "in" => contains(state, right, left),
        "not in" => Ok(!contains(state, right, left)?),
        _ => {
            let order = ordered(state, left, right, operator)?;
            Ok(match operator {
                "<" => order == Some(Ordering::Less),
                "<=" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                ">" => order == Some(Ordering::Greater),
                _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
            })
        }
    }
}

fn equal(state: &State<'_, '_>, left: &Value, right: &Value) -> Result<bool, Error> {
    match (left.as_object(), right.as_object()) {
        (Some(_), Some(_)) => {
            check_size(state, left)?;
            check_size(state, right)?;
            Ok(left.is_tuple() == right.is_tuple() && left == right)
        }
        // Undefined is like nothing but itself, and None too.
        _ => Ok(left.is_undefined() == right.is_undefined()
            && left.is_none() == right.is_none()
            && left == right),
    }
}

fn ordered(
    state: &State<'_, '_>,
    left: &Value,
    right: &Value,
    operator: &str,
) -> Result<Option<Ordering>, Error> {
    let number = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    if number(left) && number(right) || left.as_str().is_some() && right.as_str().is_some() {
        return Ok(left.partial_cmp(right));
    }
    if left.kind() == ValueKind::Seq && right.kind() == ValueKind::Seq && left.is_tuple() == right.is_tuple()
    {
        check_size(state, left)?;
        check_size(state, right)?;
        return Ok(left.partial_cmp(right));
    }
    if left.is_undefined() || right.is_undefined() {
        return Err(failed("an undefined value can't be compared"));
    }
    let (left, right) = (type_name(left), type_name(right));
    Err(failed(format!("'{operator}' not supported between instances of '{left}' and '{right}'")))
}

fn contains(state: &State<'_, '_>, container: &Value, value: &Value) -> Result<bool, Error> {
    if let Some(text) = container.as_str() {
        state.consume_fuel(text.len() as u64 / 64)?;
        return match value.as_str() {
            Some(part) => Ok(text.contains(part)),
            None => Err(failed(format!("'in <string>' requires string, not {}", type_name(value)))),
        };
    }
    match container.kind() {
        ValueKind::Undefined => Ok(false),
        ValueKind::Map => Ok(container.as_object().is_some_and(|map| map.get_value(value).is_some())),
        ValueKind::Seq | ValueKind::Iterable => {
            for item in container.try_iter()? {
                state.consume_fuel(1)?;
                if equal(state, &item, value)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => Err(failed(format!("argument of type '{}' is not iterable", type_name(container)))),
    }
}

/// `a % b`: of numbers, or Python's formatting.
fn modulo(state: &State<'_, '_>, left: &Value, right: &Value) -> Result<Value, Error> {
    if let Some(pattern) = left.as_str() {
        let arguments: Vec<Value> =
            if right.is_tuple() { right.try_iter()?.collect() } else { vec![right.clone()] };
        return printf(state, pattern, &arguments).map(Value::from);
    }
    if let (Some(a), Some(b)) = (integer(left), integer(right)) {
        let rest = a.checked_rem(b).ok_or_else(|| failed("integer modulo by zero"))?;
        return Ok(Value::from(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }));
    }
    match (number(left), number(right)) {
        (Some(_), Some(0.0)) => Err(failed("float modulo by zero")),
        (Some(a), Some(b)) => Ok(Value::from(a - b * (a / b).floor())),
        _ => Err(unsupported("%", left, right)),
    }
}

fn unsupported(operator: &str, left: &Value, right: &Value) -> Error {
    let (left, right) = (type_name(left), type_name(right));
    failed(format!("unsupported operand types for {operator}: '{left}' and '{right}'"))
}

fn number(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        _ => None,
    }
}

fn integer(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// Python's `%` formatting, also behind the filter `format`.
pub(super) fn printf(state: &State<'_, '_>, pattern: &str, arguments: &[Value]) -> Result<String, Error> {
    // `%r` is the engine's `%s` of what `repr` gives.
    let pattern = pattern.replace("%r", "%s\u{0}");
    let reprs = pattern.contains('\u{0}');
    let mut texts = Vec::with_capacity(arguments.len());
    let mut places = pattern.split('%').skip(1).filter(|place| !place.is_empty());
    for argument in arguments {
        let place = places.next().unwrap_or_default();
        let plain = matches!(argument.kind(), ValueKind::Number | ValueKind::Bool) && !place.starts_with('s');
        let mapping = argument.kind() == ValueKind::Map && place.starts_with('(');
        texts.push(if reprs && place.starts_with("s\u{0}") {
            let mut out = String::new();
            check_size(state, argument)?;
            repr(&mut out, argument);
            Value::from(out)
        } else if plain || mapping || argument.as_str().is_some() {
            check_size(state, argument)?;
            argument.clone()
        } else {
            Value::from(text(state, argument)?)
        });
    }
    pay_for_widths(state, &pattern, &texts)?;
    let formatted = format(FormatStyle::Printf, &pattern, &texts)?;
    Ok(if reprs { formatted.replace('\u{0}', "") } else { formatted })
}

/// Python's `str.format`.
pub(super) fn str_format(state: &State<'_, '_>, pattern: &str, arguments: &[Value]) -> Result<String, Error> {
    let mut pattern = pattern.to_owned();
    let mut texts = Vec::with_capacity(arguments.len());
    for argument in arguments {
        check_size(state, argument)?;
        let kept = matches!(argument.kind(), ValueKind::Number | ValueKind::String) || argument.is_kwargs();
        texts.push(if kept { argument.clone() } else { Value::from(text(state, argument)?) });
    }
    if pattern.contains("!r}") || pattern.contains("!s}") {
        if pattern.contains("!r}") {
            for text in &mut texts {
                let mut out = String::new();
                repr(&mut out, text);
                *text = Value::from(out);
            }
        }
        pattern = pattern.replace("!r}", "}").replace("!s}", "}");
    }
    pay_for_widths(state, &pattern, &texts)?;
    format(FormatStyle::StrFormat, &pattern, &texts)
}

/// A width in a format is text that is written for it: `%1000000000d`.
fn pay_for_widths(state: &State<'_, '_>, pattern: &str, arguments: &[Value]) -> Result<(), Error> {
    let written: u64 = pattern
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .map(|digits| digits.parse::<u64>().unwrap_or(u64::MAX))
        .fold(0, u64::saturating_add);
    // A width can be an argument as well: `%*d`, `{:{}}`.
    let given: u64 = arguments
        .iter()
        .filter_map(|argument| {
            integer(argument).map(|it| u64::try_from(it.unsigned_abs()).unwrap_or(u64::MAX))
        })
        .fold(0, u64::saturating_add);
    let nested = pattern.contains('*') || pattern.contains(":{") || pattern.contains("{}}");
    let bytes = written.saturating_add(if nested { given } else { 0 });
    state.consume_fuel(bytes / 16 + pattern.len() as u64 / 16)
}

/// What `container[value]` and `{value: …}` look up: a text or a number, as a rule.
fn key(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    if matches!(value.kind(), ValueKind::Map | ValueKind::Iterable)
        || (value.kind() == ValueKind::Seq && !value.is_tuple())
    {
        return Err(failed(format!("unhashable type: '{}'", type_name(value))));
    }
    check_size(state, value)?;
    Ok(value.clone())
}

/// What a `for` runs over.
fn iterable(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Number => {
            Err(failed(format!("'{}' object is not iterable", type_name(&value))))
        }
        _ => Ok(value),
    }
}
