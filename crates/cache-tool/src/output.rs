//! Text for people and JSON for programs.

use std::{
    io::{self, ErrorKind, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use artifact_store::{Imported, Listed, Store};
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
        "pinned": artifact.pinned,
        "state": artifact.state.to_string(),
    })
}

/// What an import or a pull did.
pub(crate) fn print_imported(imported: &Imported, json: bool) -> anyhow::Result<()> {
    if json {
        let mut value = json!({
            "name": imported.name,
            "digest": imported.digest.to_string(),
            "size": imported.size,
            "new_bytes": imported.new_bytes,
            "already_stored": imported.already_stored,
            "replaced": imported.replaced.map(|digest| digest.to_string()),
            "evicted": imported.evicted.iter().map(listed_json).collect::<Vec<_>>(),
        });
        if !imported.warnings.is_empty() {
            value["warnings"] = imported.warnings.clone().into();
        }
        return print_json(&value);
    }
    for warning in &imported.warnings {
        eprintln!("warning: {warning}");
    }
    for artifact in &imported.evicted {
        eprintln!("removed {} ({}) to stay within the limit", names(artifact), size(artifact.size));
    }
    let new = size(imported.new_bytes);
    eprintln!(
        "`{}` {}",
        imported.name,
        match (imported.already_stored, imported.new_bytes) {
            (true, 0) => "was stored already".to_owned(),
            (true, _) => format!("was stored already, and {new} of it damaged, which are mended"),
            (false, 0) => format!("has {}, all of which was in the store", size(imported.size)),
            (false, _) => format!("has {}, of which {new} are new in the store", size(imported.size)),
        }
    );
    if let Some(old) = imported.replaced {
        eprintln!("the name stood for {} before, which stays in the store until it is pruned", old.short());
    }
    print(&imported.digest.to_string())
}

/// Whether an artifact is pinned now.
pub(crate) fn print_pinned(store: &Store, name: &str, changed: bool, json: bool) -> anyhow::Result<()> {
    let digest = store.locate(name)?;
    let listed = store.list()?.into_iter().find(|listed| listed.digest == digest);
    let listed = listed.context("the artifact was removed meanwhile")?;
    if json {
        let mut value = listed_json(&listed);
        value["changed"] = changed.into();
        return print_json(&value);
    }
    let state = match (listed.pinned, changed) {
        (true, true) => "is now pinned",
        (true, false) => "was pinned already",
        (false, true) => "is no longer pinned",
        (false, false) => "was not pinned",
    };
    eprintln!("{} {state}", names(&listed));
    Ok(())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
