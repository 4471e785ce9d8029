//! `cache-tool usage`.

use artifact_store::Usage;
use serde_json::{Value, json};

use crate::{
    output::{Rows, ago, names, print_json, print_script, size, summary_json},
    store_args::StoreArgs,
};

/// Show how much room the store takes.
///
/// OWN is what the removal of an artifact would free; SHARED is what others
/// use as well. A file that several artifacts use counts once in the total.
///
/// Example: cache-tool usage
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Print JSON, sizes in bytes, times in seconds since 1970
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(store_args: &StoreArgs, args: &Args) -> anyhow::Result<()> {
    let usage = store_args.open_read_only()?.usage()?;
    if args.json {
        return print_json(&as_json(&usage));
    }
    let mut rows = Rows::with_header(["NAME", "SIZE", "OWN", "SHARED", "PINNED", "LAST USE"]);
    for entry in &usage.artifacts {
        rows.add_row([
            names(&entry.artifact),
            size(entry.artifact.size),
            size(entry.unique),
            size(entry.shared),
            if entry.artifact.pinned { "yes" } else { "" }.to_owned(),
            ago(entry.artifact.last_use),
        ]);
    }
    rows.print()?;
    print_script("")?;
    let mut facts = Rows::new();
    for (label, bytes) in [
        ("total", usage.total),
        ("of it shared", usage.shared),
        ("limit", usage.limit),
        ("free on the disk", usage.available),
        ("in quarantine", usage.quarantined),
        ("unfinished work", usage.unfinished),
    ] {
        facts.add_row([label.to_owned(), size(bytes)]);
    }
    facts.print()
}

fn as_json(usage: &Usage) -> Value {
    let artifacts = usage.artifacts.iter().map(|entry| {
        let mut value = summary_json(&entry.artifact);
        value["unique"] = entry.unique.into();
        value["shared"] = entry.shared.into();
        value
    });
    json!({
        "artifacts": artifacts.collect::<Vec<_>>(),
        "total": usage.total,
        "shared": usage.shared,
        "limit": usage.limit,
        "available": usage.available,
        "quarantined": usage.quarantined,
        "unfinished": usage.unfinished,
    })
}
