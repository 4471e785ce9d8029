//! Text for people and JSON for programs.

use std::{
    io::{self, ErrorKind, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use artifact_store::Listed;
use bytesize::ByteSize;
use comfy_table::{Table, presets};
use indicatif::HumanDuration;
use serde_json::{Value, json};

/// A table without borders and header.
pub(crate) fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// A table without borders.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = plain_table();
    table.set_header(header);
    table
}

/// Writes text and a line end to stdout. A reader that went away (`| head`)
/// is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes a table without the spaces that fill its lines.
pub(crate) fn print_table(table: &Table) -> anyhow::Result<()> {
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    print(&lines.join("\n"))
}

pub(crate) fn print_json(value: &Value) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// "93.8 MiB".
pub(crate) fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// "2 hours ago".
pub(crate) fn ago(time: SystemTime) -> String {
    match time.elapsed() {
        Ok(elapsed) if elapsed.as_secs() > 0 => format!("{} ago", HumanDuration(elapsed)),
        _ => "just now".to_owned(),
    }
}

/// The names of an artifact, or a dash.
pub(crate) fn names(artifact: &Listed) -> String {
    if artifact.names.is_empty() { "-".to_owned() } else { artifact.names.join(", ") }
}

/// An artifact as JSON; times in seconds since 1970.
pub(crate) fn listed_json(artifact: &Listed) -> Value {
    json!({
        "digest": artifact.digest.to_string(),
        "names": artifact.names,
        "architecture": artifact.architecture,
        "size": artifact.size,
        "imported_at": seconds(artifact.imported_at),
        "last_use": seconds(artifact.last_use),
    })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
