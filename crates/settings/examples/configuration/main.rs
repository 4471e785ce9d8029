//! Prints docs/configuration.md: every key of the configuration file with its type, default, range and meaning.
//!
//! Types, ranges and meanings are read from the schema's source, defaults from the shipped file, which a test compares
//! with the schema.

#![allow(clippy::print_stdout)] // the document is the output

mod source;

use serde_json::Value;
use settings::{SizeError, parse_size};

use source::{Field, Reader, Schema};

/// What a document says of a field's type and range.
struct Shown {
    kind: String,
    range: String,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schema = Schema::parse(&[
        include_str!("../../src/schema.rs"),
        include_str!("../../src/schema/cpu.rs"),
        include_str!("../../src/schema/engine.rs"),
    ])?;
    let shipped: Value = serde_saphyr::from_str(include_str!("../../../../config/runtime.yaml"))?;
    println!("# Configuration\n");
    println!(
        "Written by `cargo xtask docs` from the schema. [`config/runtime.yaml`](../config/runtime.yaml) has"
    );
    println!("the same keys with their defaults, and says more about some.\n");
    println!(
        "The whole file is checked before anything starts; unknown keys and values out of range are refused"
    );
    println!("with file and line. Every key may be left out.");
    print_section(&schema, "Settings", "", &shipped)?;
    Ok(())
}

/// Prints the keys of `section` as a table, then the sections in it.
fn print_section(
    schema: &Schema,
    section: &str,
    prefix: &str,
    shipped: &Value,
) -> Result<(), Box<dyn std::error::Error>> {
    let fields = schema.fields(section).ok_or_else(|| format!("the schema has no {section}"))?;
    let (sections, keys): (Vec<&Field>, Vec<&Field>) =
        fields.iter().partition(|field| field.reader == Reader::Section);
    if !keys.is_empty() {
        println!("\n| key | type | default | range | meaning |\n| --- | --- | --- | --- | --- |");
    }
    for field in keys {
        let Shown { kind, range } = shown(schema, field);
        let default = default(&shipped[&field.name], &field.reader)?;
        println!("| `{prefix}{}` | {kind} | {default} | {range} | {} |", field.name, field.meaning);
    }
    for field in sections {
        let name = format!("{prefix}{}", field.name);
        println!("\n## `{name}`\n\n{}", field.meaning);
        print_section(schema, &field.kind, &format!("{name}."), &shipped[&field.name])?;
    }
    Ok(())
}

fn shown(schema: &Schema, field: &Field) -> Shown {
    let (kind, range) = match field.reader {
        Reader::Number(min, max) => ("number", format!("{min} to {max}")),
        Reader::Millis(min, max) => ("milliseconds", format!("{min} to {max}")),
        Reader::Bytes(min, max) => ("size", format!("{} to {}", size(min), size(max))),
        Reader::PowerOfTwo(min, max) => ("size", format!("{} to {}, a power of two", size(min), size(max))),
        Reader::Section | Reader::Plain => match field.kind.as_str() {
            "bool" => ("boolean", "`true`, `false`".to_owned()),
            "Vec" => ("list of texts", String::new()),
            "BTreeMap" => ("texts by texts", String::new()),
            "String" | "Option" => ("text", String::new()),
            other => ("word", schema.words(other).join(", ")),
        },
    };
    Shown { kind: kind.to_owned(), range }
}

fn default(value: &Value, reader: &Reader) -> Result<String, SizeError> {
    let is_size = matches!(reader, Reader::Bytes(..) | Reader::PowerOfTwo(..));
    Ok(match value {
        Value::Null => "none".to_owned(),
        Value::String(text) if is_size => format!("`{}`", size(parse_size(text)?)),
        Value::String(text) => format!("`{text}`"),
        number if is_size => format!("`{}`", size(parse_size(&number.to_string())?)),
        other => format!("`{other}`"),
    })
}

/// A number of bytes in the largest unit that it is a multiple of.
fn size(bytes: u64) -> String {
    if bytes == u64::MAX {
        return "16 EiB".to_owned();
    }
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let power = (0..units.len()).rev().find(|power| bytes.is_multiple_of(1 << (10 * power))).unwrap_or(0);
    format!("{} {}", bytes >> (10 * power), units[power])
}
