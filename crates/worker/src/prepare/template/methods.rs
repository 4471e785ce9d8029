//! Methods of Python's texts, lists, dictionaries and numbers.

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{StringInput, Tuple, ValueKind},
};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::{
    arguments::Arguments,
    operators::{check_key, compare_two, str_format},
    texts::{self, is_space},
    values::{failed, is_printable},
};

/// Calls `method` on a value that has none of that name for the engine.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    // Every method looks at its text once, at least.
    if let Some(text) = value.as_str() {
        state.consume_fuel(text.len() as u64 / 64)?;
        return text_method(state, text, method, arguments);
    }
    let given = Arguments::new(arguments)?;
    match (value.kind(), method) {
        (ValueKind::Seq | ValueKind::Map, "copy") => {
            given.at_most(0)?;
            Ok(value.clone())
        }
        (ValueKind::Seq, "index" | "count") => {
            let item = given.get(0, "value").unwrap_or(Value::from(()));
            let mut count = 0;
            for (at, other) in value.try_iter()?.enumerate() {
                state.consume_fuel(1)?;
                if compare_two(state, &other, "==", &item)? {
                    if method == "index" {
                        return Ok(Value::from(at));
                    }
                    count += 1;
                }
            }
            if method == "index" { Err(failed("the list has no such item")) } else { Ok(Value::from(count)) }
        }
        (ValueKind::Number, "is_integer") => Ok(Value::from(
            value.is_integer() || f64::try_from(value.clone()).is_ok_and(|it| it.fract() == 0.0),
        )),
        (ValueKind::Number, "bit_length") if value.is_integer() => {
            let number = i128::try_from(value.clone())?;
            Ok(Value::from(i128::BITS - number.unsigned_abs().leading_zeros()))
        }
        (ValueKind::Map, "get") => {
            given.get(0, "key").map_or(Ok(()), |key| check_key(state, &key))?;
            unknown_method_callback(state, value, method, arguments)
        }
        (ValueKind::Map, _) => unknown_method_callback(state, value, method, arguments),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn text_method(state: &State<'_, '_>, text: &str, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let given = Arguments::new(arguments)?;
    let value = match method {
        "upper" => Value::from(text.to_uppercase()),
        "lower" => Value::from(text.to_lowercase()),
        "casefold" => Value::from(text.to_lowercase().replace('ß', "ss").replace('ς', "σ")),
        "swapcase" => Value::from(texts::swap_case(text)),
        "capitalize" => capitalized(state, text)?,
        "title" => title(state, text)?,
        "strip" | "lstrip" | "rstrip" => {
            let chars = given.text(0, "chars")?;
            let (left, right) = (method != "rstrip", method != "lstrip");
            Value::from(texts::strip(text, chars.as_deref(), left, right))
        }
        "split" | "rsplit" => split(state, text, &given, method == "rsplit")?,
        "splitlines" => {
            let lines = texts::lines(text, given.flag(0, "keepends"));
            state.consume_fuel(lines.len() as u64)?;
            lines.into_iter().map(Value::from).collect()
        }
        "partition" | "rpartition" => {
            let separator = not_empty(given.required_text(0, "sep")?)?;
            let parts = texts::partition(text, &separator, method == "rpartition");
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "replace" => {
            let (old, new) = (given.required_text(0, "old")?, given.required_text(1, "new")?);
            replace(state, text, &old, &new, given.integer(2, "count")?)?
        }
        "join" => join(state, text, &given)?,
        "format" => Value::from(str_format(state, text, arguments)?),
        "center" | "ljust" | "rjust" | "zfill" => {
            let width = given.integer(0, "width")?.ok_or_else(|| failed("argument width is missing"))?;
            let width = usize::try_from(width).unwrap_or_default();
            // Before it is allocated.
            state.consume_fuel(width as u64 / 16)?;
            let fill = given.text(1, "fillchar")?.and_then(|fill| fill.chars().next()).unwrap_or(' ');
            Value::from(texts::padded(text, method, width, fill))
        }
        "expandtabs" => {
            let size = given.integer(0, "tabsize")?.unwrap_or(8).clamp(0, 1000) as usize;
            state.consume_fuel((text.matches('\t').count() * size) as u64 / 16)?;
            Value::from(texts::expand_tabs(text, size))
        }
        "removeprefix" => {
            let prefix = given.required_text(0, "prefix")?;
            Value::from(text.strip_prefix(prefix.as_str()).unwrap_or(text))
        }
        "removesuffix" => {
            let suffix = given.required_text(0, "suffix")?;
            Value::from(text.strip_suffix(suffix.as_str()).unwrap_or(text))
        }
        "startswith" | "endswith" | "find" | "rfind" | "index" | "rindex" | "count" => {
            search(state, text, method, &given)?
        }
        _ => return question(text, method, &given),
    };
    Ok(value)
}

/// The methods that look for something in a part of a text.
fn search(state: &State<'_, '_>, text: &str, method: &str, given: &Arguments<'_>) -> Result<Value, Error> {
    let Some((start, part)) = texts::slice(text, given.integer(1, "start")?, given.integer(2, "end")?) else {
        return Ok(match method {
            "startswith" | "endswith" => Value::from(false),
            "count" => Value::from(0),
            "find" | "rfind" => Value::from(-1),
            _ => return Err(failed("substring not found")),
        });
    };
    if matches!(method, "startswith" | "endswith") {
        let wanted = given.get(0, "prefix").unwrap_or_default();
        let wanted: Vec<Value> = if wanted.is_tuple() { wanted.try_iter()?.collect() } else { vec![wanted] };
        for one in wanted {
            let one =
                one.as_str().ok_or_else(|| failed(format!("{method} wants a str or a tuple of str")))?;
            if if method == "startswith" { part.starts_with(one) } else { part.ends_with(one) } {
                return Ok(Value::from(true));
            }
        }
        return Ok(Value::from(false));
    }
    let wanted = given.required_text(0, "sub")?;
    state.consume_fuel(wanted.len() as u64 / 64)?;
    if method == "count" {
        return Ok(Value::from(part.matches(wanted.as_str()).count()));
    }
    let found = if method.starts_with('r') { part.rfind(&wanted) } else { part.find(&wanted) };
    match found {
        Some(at) => Ok(Value::from(start + part.get(..at).unwrap_or_default().chars().count())),
        None if method.ends_with("find") => Ok(Value::from(-1)),
        None => Err(failed("substring not found")),
    }
}

/// The methods that answer yes or no.
fn question(text: &str, method: &str, given: &Arguments<'_>) -> Result<Value, Error> {
    let all = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    let answer = match method {
        "islower" => text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase),
        "isupper" => text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase),
        "istitle" => texts::is_title(text),
        "isspace" => all(is_space),
        "isdecimal" => all(texts::is_decimal),
        "isdigit" => all(texts::is_digit),
        "isnumeric" => all(char::is_numeric),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isascii" => text.is_ascii(),
        "isprintable" => text.chars().all(is_printable),
        "isidentifier" => {
            all(|c| c == '_' || c.is_alphanumeric()) && !text.starts_with(|c: char| c.is_numeric())
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    };
    given.at_most(0)?;
    Ok(Value::from(answer))
}

fn capitalized(state: &State<'_, '_>, text: &str) -> Result<Value, Error> {
    Ok(minijinja::filters::capitalize(StringInput::new(state, &Value::from(text))?))
}

/// Every run of letters with a capital: `they're` gives `They'Re`.
fn title(state: &State<'_, '_>, text: &str) -> Result<Value, Error> {
    let cased = |c: char| c.is_lowercase() || c.is_uppercase();
    let mut titled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(cased) {
        let (before, word) = rest.split_at(start);
        let (word, after) = word.split_at(word.find(|c| !cased(c)).unwrap_or(word.len()));
        titled.push_str(before);
        titled.push_str(capitalized(state, word)?.as_str().unwrap_or_default());
        rest = after;
    }
    Ok(Value::from(titled + rest))
}

fn split(state: &State<'_, '_>, text: &str, given: &Arguments<'_>, from_right: bool) -> Result<Value, Error> {
    let separator = given.text(0, "sep")?.map(not_empty).transpose()?;
    let limit =
        given.integer(1, "maxsplit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let parts = texts::split(text, separator.as_deref(), limit, from_right);
    state.consume_fuel(parts.len() as u64)?;
    Ok(parts.into_iter().map(Value::from).collect())
}

fn not_empty(separator: String) -> Result<String, Error> {
    if separator.is_empty() { Err(failed("empty separator")) } else { Ok(separator) }
}

/// Also used by the filter.
pub(super) fn replace(
    state: &State<'_, '_>,
    text: &str,
    old: &str,
    new: &str,
    count: Option<i64>,
) -> Result<Value, Error> {
    let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let found = text.matches(old).take(count).count();
    // Before it is allocated.
    state.consume_fuel((found as u64).saturating_mul(new.len() as u64 + 1) / 16)?;
    Ok(Value::from(text.replacen(old, new, count)))
}

fn join(state: &State<'_, '_>, separator: &str, given: &Arguments<'_>) -> Result<Value, Error> {
    let items = given.get(0, "iterable").ok_or_else(|| failed("can only join an iterable"))?;
    let mut joined = String::new();
    for (n, item) in items.try_iter()?.enumerate() {
        let Some(text) = item.as_str() else {
            let found = super::values::type_name(&item);
            return Err(failed(format!("sequence item {n}: expected str instance, {found} found")));
        };
        state.consume_fuel(1 + (separator.len() + text.len()) as u64 / 16)?;
        joined.push_str(if n > 0 { separator } else { "" });
        joined.push_str(text);
    }
    Ok(Value::from(joined))
}
