//! Text for people and JSON for programs.
//!
//! Names, metadata and templates come from others, and could command a terminal or forge lines. What goes to people is
//! escaped here, in one place; nothing else in this program writes to stdout or stderr.

use std::{
    fmt::Write as _,
    io::{self, ErrorKind, Write},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use artifact_store::{ArtifactSummary, Imported, Store, printable};
use bytesize::ByteSize;
use comfy_table::{Table, presets};
use indicatif::HumanDuration;
use serde_json::{Value, json};

/// A table without borders.
pub(crate) struct Rows(Table);

impl Rows {
    pub(crate) fn new() -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        Self(table)
    }

    pub(crate) fn with_header<const N: usize>(header: [&str; N]) -> Self {
        let mut rows = Self::new();
        rows.0.set_header(header);
        rows
    }

    pub(crate) fn add_row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.add_row(cells.map(|cell| printable(&cell).into_owned()));
    }

    /// Writes it to stdout without the spaces that fill its lines.
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        let lines: Vec<_> = self.0.lines().map(|line| line.trim_end().to_owned()).collect();
        print_script(&lines.join("\n"))
    }
}

/// Writes a line to stderr.
#[allow(clippy::print_stderr)]
pub(crate) fn say(line: &str) {
    eprintln!("{}", printable(line));
}

/// Writes a line to stdout.
pub(crate) fn print(line: &str) -> anyhow::Result<()> {
    print_script(&printable(line))
}

/// Writes lines of our own to stdout as they are. A reader that went away (`| head`) is not an error.
pub(crate) fn print_script(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

pub(crate) fn print_json(value: &Value) -> anyhow::Result<()> {
    print_script(&json_text(value)?)
}

/// JSON in lines. Characters that terminals obey are written as `\u….`, which means the same.
fn json_text(value: &Value) -> anyhow::Result<String> {
    let text = serde_json::to_string_pretty(value)?;
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        // Outside of strings there are only line ends, and inside there are none.
        if character == '\n' || printable(character.encode_utf8(&mut [0; 4])).len() == character.len_utf8() {
            escaped.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(escaped, "\\u{unit:04x}")?;
            }
        }
    }
    Ok(escaped)
}

/// A path as JSON. What is not UTF-8 in it can't be in JSON, and is replaced.
pub(crate) fn path_json(path: &Path) -> Value {
    path.to_string_lossy().into()
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
pub(crate) fn names(artifact: &ArtifactSummary) -> String {
    if artifact.names.is_empty() { "-".to_owned() } else { artifact.names.join(", ") }
}

/// An artifact as JSON; times in seconds since 1970.
pub(crate) fn summary_json(artifact: &ArtifactSummary) -> Value {
    json!({
        "digest": artifact.digest.to_string(),
        "names": artifact.names,
        "architecture": artifact.architecture,
        "base": artifact.base.map(|digest| digest.to_string()),
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
            "evicted": imported.evicted.iter().map(summary_json).collect::<Vec<_>>(),
        });
        if !imported.warnings.is_empty() {
            value["warnings"] = imported.warnings.clone().into();
        }
        return print_json(&value);
    }
    for warning in &imported.warnings {
        say(&format!("warning: {warning}"));
    }
    for artifact in &imported.evicted {
        say(&format!("removed {} ({}) to stay within the limit", names(artifact), size(artifact.size)));
    }
    let new = size(imported.new_bytes);
    say(&format!(
        "`{}` {}",
        imported.name,
        match (imported.already_stored, imported.new_bytes) {
            (true, 0) => "was stored already".to_owned(),
            (true, _) => format!("was stored already, and {new} of it damaged, which are mended"),
            (false, 0) => format!("has {}, all of which was in the store", size(imported.size)),
            (false, _) => format!("has {}, of which {new} are new in the store", size(imported.size)),
        }
    ));
    if let Some(old) = imported.replaced {
        let old = old.short();
        say(&format!("the name stood for {old} before, which stays in the store until it is pruned"));
    }
    print(&imported.digest.to_string())
}

/// Whether an artifact is pinned now.
pub(crate) fn print_pinned(store: &Store, name: &str, changed: bool, json: bool) -> anyhow::Result<()> {
    let digest = store.locate(name)?;
    let listed = store.list()?.into_iter().find(|listed| listed.digest == digest);
    let listed = listed.context("the artifact was removed meanwhile")?;
    if json {
        let mut value = summary_json(&listed);
        value["changed"] = changed.into();
        return print_json(&value);
    }
    let state = match (listed.pinned, changed) {
        (true, true) => "is now pinned",
        (true, false) => "was pinned already",
        (false, true) => "is no longer pinned",
        (false, false) => "was not pinned",
    };
    say(&format!("{} {state}", names(&listed)));
    Ok(())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn json_keeps_its_meaning_and_commands_no_terminal(text in "\\PC{0,8}|[\\x00-\u{9f}\u{202a}-\u{202e}\u{2066}\u{1f642}a\"\\\\]{0,8}") {
            let value = json!({ text.clone(): [text] });
            let written = json_text(&value).unwrap();
            prop_assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), value);
            let line = written.replace('\n', "");
            prop_assert_eq!(printable(&line), line.as_str());
        }
    }
}
