//! `cache-tool prune`.

use std::path::Path;

use artifact_store::{Listed, Store};
use bytesize::ByteSize;
use serde_json::{Value, json};

use crate::output::{ago, listed_json, names, print_json, print_table, size, table};

/// Make the store smaller.
///
/// Removes artifacts, the least recently used first, until the store has at
/// most the given size. What a process is using stays, and so do files that a
/// remaining artifact shares.
///
/// Example: cache-tool prune --max-size 50GiB --dry-run
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Size the store may keep, such as 50GiB or 500MB
    #[arg(long, value_name = "SIZE", default_value = "100GiB")]
    max_size: ByteSize,
    /// Remove nothing; show what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Print JSON, sizes in bytes, times in seconds since 1970
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(store: &Path, args: &Args) -> anyhow::Result<()> {
    // Asked for first, so that pruning does not create a store.
    Store::open_read_only(store)?;
    let report = Store::open(store)?.prune(args.max_size.as_u64(), args.dry_run)?;
    if args.json {
        let list = |artifacts: &[Listed]| Value::Array(artifacts.iter().map(listed_json).collect());
        return print_json(&json!({
            "dry_run": report.dry_run,
            "removed": list(&report.removed),
            "kept_in_use": list(&report.kept_in_use),
            "size_before": report.size_before,
            "size_after": report.size_after,
        }));
    }
    let verb = if report.dry_run { "would be removed" } else { "removed" };
    if !report.removed.is_empty() {
        let mut rows = table(["NAME", "SIZE", "LAST USE", "DIGEST"]);
        for artifact in &report.removed {
            rows.add_row([
                names(artifact),
                size(artifact.size),
                ago(artifact.last_use),
                artifact.digest.short(),
            ]);
        }
        print_table(&rows)?;
    }
    for artifact in &report.kept_in_use {
        eprintln!("{} is in use and stays", names(artifact));
    }
    eprintln!(
        "{} artifacts {verb}; the store had {} and {} {}",
        report.removed.len(),
        size(report.size_before),
        if report.dry_run { "would have" } else { "has" },
        size(report.size_after)
    );
    Ok(())
}
