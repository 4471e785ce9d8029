//! Values of a template: from JSON, as Python's text, and how large they are.

use std::fmt::Write;

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{DynObject, ObjectRepr, ValueKind},
};
use serde_json::Value as Json;

/// Deepest nesting of a value that is looked at as a whole.
pub(super) const MAX_DEPTH: usize = 200;

/// Most items of a value that is looked at as a whole: lists that hold each other can be endless in few bytes.
const MAX_ITEMS: usize = 1 << 20;

/// Items that cost as much as one instruction.
const ITEMS_PER_FUEL: usize = 8;

/// A request's JSON as a template sees it.
pub(super) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (_, Some(integer)) => Value::from(integer),
            _ => Value::from(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(from_json).collect(),
        Json::Object(entries) => {
            Value::from_pairs(entries.iter().map(|(key, value)| (key.as_str(), from_json(value))))
        }
    }
}

/// Refuses a value whose text, or comparison with another, could be endless; pays for looking.
pub(super) fn check_size(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    // Nearly everything that is looked at is one text or number.
    let Some(object) = value.as_object() else { return Ok(()) };
    let mut left = MAX_ITEMS;
    count(object, MAX_DEPTH, &mut left)?;
    state.consume_fuel(((MAX_ITEMS - left) / ITEMS_PER_FUEL) as u64)
}

fn count(object: &DynObject, depth: usize, left: &mut usize) -> Result<(), Error> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(failed(format!("a value is nested more than {MAX_DEPTH} times")));
    };
    let mut item = |value: &Value| {
        *left =
            left.checked_sub(1).ok_or_else(|| failed(format!("a value has more than {MAX_ITEMS} items")))?;
        value.as_object().map_or(Ok(()), |object| count(object, depth, left))
    };
    match object.repr() {
        ObjectRepr::Map => {
            for (key, value) in object.try_iter_pairs().into_iter().flatten() {
                item(&key)?;
                item(&value)?;
            }
        }
        ObjectRepr::Seq | ObjectRepr::Iterable => {
            for value in object.try_iter().into_iter().flatten() {
                item(&value)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// `str(value)`, where `None`, `True` and floats look as in Python.
pub(super) fn text(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let mut out = String::new();
    if !value.is_undefined() {
        check_size(state, value)?;
        repr(&mut out, value);
        state.consume_fuel(out.len() as u64 / 16)?;
    }
    Ok(out)
}

/// `repr(value)`. Bounded by what [`check_size`] has let through.
pub(super) fn repr(out: &mut String, value: &Value) {
    let Some(object) = value.as_object() else { return scalar(out, value) };
    match object.repr() {
        ObjectRepr::Map => {
            out.push('{');
            for (n, (key, value)) in object.try_iter_pairs().into_iter().flatten().enumerate() {
                out.push_str(if n > 0 { ", " } else { "" });
                repr(out, &key);
                out.push_str(": ");
                repr(out, &value);
            }
            out.push('}');
        }
        ObjectRepr::Seq | ObjectRepr::Iterable => {
            let tuple = value.is_tuple();
            out.push(if tuple { '(' } else { '[' });
            let mut len = 0;
            for item in object.try_iter().into_iter().flatten() {
                out.push_str(if len > 0 { ", " } else { "" });
                repr(out, &item);
                len += 1;
            }
            out.push_str(if tuple && len == 1 { "," } else { "" });
            out.push(if tuple { ')' } else { ']' });
        }
        _ => drop(write!(out, "{value}")),
    }
}

fn scalar(out: &mut String, value: &Value) {
    match value.kind() {
        ValueKind::String => quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(number) => out.push_str(&float(number)),
            Err(_) => drop(write!(out, "{value}")),
        },
        ValueKind::Bytes => drop(write!(out, "{value:?}")),
        _ => drop(write!(out, "{value}")),
    }
}

/// `repr` of a text.
fn quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c if u32::from(c) <= 0xff => drop(write!(out, "\\x{:02x}", u32::from(c))),
            c if u32::from(c) <= 0xffff => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => drop(write!(out, "\\U{:08x}", u32::from(c))),
        }
    }
    out.push(quote);
}

/// Python's `str.isprintable`, as far as the standard library knows the categories: neither controls, nor separators
/// other than the space, nor the common invisible ones. Characters for private use are left alone: they may stand for others.
pub(super) fn is_printable(c: char) -> bool {
    let invisible = matches!(
        u32::from(c),
        0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x180e | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f
            | 0xfeff | 0xfff0..=0xfffb | 0xfffe | 0xffff | 0xe0000..=0xe0fff
    );
    c == ' ' || !(c.is_control() || c.is_whitespace() || invisible)
}

/// `repr` of a float: the shortest digits that give it back, with an exponent of at least two digits.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.into();
    }
    let digits = format!("{number:e}");
    let (mantissa, exponent) = digits.split_once('e').unwrap_or((&digits, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..16).contains(&exponent) {
        let plain = format!("{number}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// An error in a template's use of a value.
pub(super) fn failed(words: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, words)
}

/// What Python calls the value's type.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "Undefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String => "str",
        ValueKind::Bytes => "bytes",
        ValueKind::Seq if value.is_tuple() => "tuple",
        ValueKind::Seq => "list",
        ValueKind::Map => "dict",
        ValueKind::Iterable => "generator",
        _ => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_look_as_in_python() {
        for (number, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.5, "1.5"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e-5, "1.25e-05"),
            (0.0001, "0.0001"),
            (-1e-7, "-1e-07"),
            (1.5e300, "1.5e+300"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(float(number), text);
        }
    }
}
