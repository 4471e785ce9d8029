//! `tojson` as transformers defines it: Python's `json.dumps`, and not Jinja's, which escapes for HTML.

use std::fmt::Write;

use minijinja::{
    Error, State, Value,
    value::{Kwargs, ObjectRepr, Rest, ValueKind},
};

use super::values::{check_size, failed, float, type_name};

/// Deepest indentation and longest unit of it: their product is written in front of every item.
const MAX_INDENT: usize = 64;

/// How JSON is written.
struct Style {
    ascii: bool,
    sorted: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

/// `value | tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    arguments: Rest<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    let argument = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        let value = match arguments.get(at) {
            Some(value) => Some(value.clone()),
            None => named.get::<Option<Value>>(name)?,
        };
        Ok(value.filter(|value| !value.is_none()))
    };
    let ascii = argument(0, "ensure_ascii")?.is_some_and(|it| it.is_true());
    let indent = argument(1, "indent")?.map(|it| indent(&it)).transpose()?;
    let separators = argument(2, "separators")?;
    let sorted = argument(3, "sort_keys")?.is_some_and(|it| it.is_true());
    named.assert_all_used()?;
    let (item, key) = match separators {
        Some(pair) => (separator(&pair, 0)?, separator(&pair, 1)?),
        None => (if indent.is_some() { "," } else { ", " }.into(), ": ".into()),
    };

    check_size(state, value)?;
    let style = Style { ascii, sorted, indent, item, key };
    let mut out = String::new();
    style.write(&mut out, value, 0)?;
    state.consume_fuel(out.len() as u64 / 16)?;
    Ok(out)
}

fn indent(value: &Value) -> Result<String, Error> {
    let unit = match value.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(value.as_i64().map_or(0, |width| width.clamp(0, MAX_INDENT as i64 + 1)) as usize),
    };
    if unit.len() > MAX_INDENT { Err(failed("tojson: the indentation is too wide")) } else { Ok(unit) }
}

fn separator(pair: &Value, at: usize) -> Result<String, Error> {
    let text = pair.get_item_by_index(at)?;
    match text.as_str() {
        Some(text) if text.len() <= MAX_INDENT => Ok(text.to_owned()),
        _ => Err(failed("tojson: separators must be two short texts")),
    }
}

impl Style {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if value.as_object().is_none() {
            return self.scalar(out, value);
        }
        let object = value.as_object().ok_or_else(|| failed("not an object"))?;
        match object.repr() {
            ObjectRepr::Seq => {
                let items: Vec<Value> = object.try_iter().into_iter().flatten().collect();
                self.enclosed(out, ['[', ']'], depth, &items, |out, item| self.write(out, item, depth + 1))
            }
            ObjectRepr::Map => {
                let mut entries: Vec<(String, Value)> = Vec::new();
                for (key, value) in object.try_iter_pairs().into_iter().flatten() {
                    entries.push((self.key_text(&key)?, value));
                }
                if self.sorted {
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.enclosed(out, ['{', '}'], depth, &entries, |out, (key, value)| {
                    self.text(out, key);
                    out.push_str(&self.key);
                    self.write(out, value, depth + 1)
                })
            }
            _ => Err(unserializable(value)),
        }
    }

    fn enclosed<T>(
        &self,
        out: &mut String,
        [open, close]: [char; 2],
        depth: usize,
        items: &[T],
        write: impl Fn(&mut String, &T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        for (n, item) in items.iter().enumerate() {
            out.push_str(if n > 0 { &self.item } else { "" });
            self.new_line(out, depth + 1);
            write(out, item)?;
        }
        if !items.is_empty() {
            self.new_line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn new_line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    }

    fn scalar(&self, out: &mut String, value: &Value) -> Result<(), Error> {
        match value.kind() {
            ValueKind::String => self.text(out, value.as_str().unwrap_or_default()),
            ValueKind::Undefined | ValueKind::Bytes | ValueKind::Invalid => {
                return Err(unserializable(value));
            }
            _ => out.push_str(&plain(value)),
        }
        Ok(())
    }

    fn key_text(&self, key: &Value) -> Result<String, Error> {
        match key.kind() {
            ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
            ValueKind::None | ValueKind::Bool | ValueKind::Number => Ok(plain(key)),
            _ => Err(failed(format!("keys must be str, int, float, bool or None, not {}", type_name(key)))),
        }
    }

    fn text(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if u32::from(c) < 0x20 || (self.ascii && u32::from(c) > 0x7e) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// A value that is neither a text nor holds others.
fn plain(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "null".into(),
        ValueKind::Bool => if value.is_true() { "true" } else { "false" }.into(),
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(number) if number.is_nan() => "NaN".into(),
            Ok(number) if number.is_infinite() => if number > 0.0 { "Infinity" } else { "-Infinity" }.into(),
            Ok(number) => float(number),
            Err(_) => value.to_string(),
        },
        _ => value.to_string(),
    }
}

fn unserializable(value: &Value) -> Error {
    failed(format!("Object of type {} is not JSON serializable", type_name(value)))
}
