//! `cache-tool prune`.

use artifact_store::{ArtifactSummary, PruneOptions, PruneReport};
use serde_json::{Value, json};

use crate::{
    output::{Rows, ago, names, print_json, say, size, summary_json},
    progress::say_waiting,
    store_args::StoreArgs,
};

/// Make the store smaller.
///
/// Removes artifacts, the least recently used first. One goes if any of these
/// asks for it:
///
///   --older-than AGE   it was not used for so long
///   --max-size SIZE    the store is larger, and its going makes it smaller
///   --keep N           protects the N most recently used from the other two;
///                      given alone, everything but these goes
///
/// Without any of them, the limit of the store counts as --max-size. What is
/// pinned or in use stays, and so do files that a remaining artifact shares.
///
/// Example: cache-tool prune --older-than 30d --max-size 50GiB --keep 3 --dry-run
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Remove what was not used for so long, such as 30d or 12h
    #[arg(long, value_name = "AGE")]
    older_than: Option<humantime::Duration>,
    /// Keep the N most recently used
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// Remove nothing; show what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Print JSON, sizes in bytes, times in seconds since 1970
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(store_args: &StoreArgs, args: &Args) -> anyhow::Result<()> {
    let store = store_args.open_existing()?;
    let mut options = PruneOptions {
        max_size: store_args.max_size(),
        older_than: args.older_than.map(Into::into),
        keep: args.keep,
        dry_run: args.dry_run,
    };
    if (options.max_size, options.older_than, options.keep) == (None, None, None) {
        options.max_size = Some(store_args.limit()?);
    }
    let report = store.prune(&options, &mut say_waiting)?;
    if args.json { print_json(&as_json(&report)) } else { show(&report) }
}

fn as_json(report: &PruneReport) -> Value {
    let list = |artifacts: &[ArtifactSummary]| Value::Array(artifacts.iter().map(summary_json).collect());
    json!({
        "dry_run": report.dry_run,
        "removed": list(&report.removed),
        "kept_in_use": list(&report.kept_in_use),
        "kept_pinned": list(&report.kept_pinned),
        "size_before": report.size_before,
        "size_after": report.size_after,
    })
}

fn show(report: &PruneReport) -> anyhow::Result<()> {
    if !report.removed.is_empty() {
        let mut rows = Rows::with_header(["NAME", "SIZE", "LAST USE", "DIGEST"]);
        for artifact in &report.removed {
            rows.add_row([
                names(artifact),
                size(artifact.size),
                ago(artifact.last_use),
                artifact.digest.short(),
            ]);
        }
        rows.print()?;
    }
    for (kept, why) in [(&report.kept_in_use, "in use"), (&report.kept_pinned, "pinned")] {
        for artifact in kept {
            say(&format!("{} is {why} and stays", names(artifact)));
        }
    }
    let (verb, has) = if report.dry_run { ("would be removed", "would have") } else { ("removed", "has") };
    say(&format!(
        "{} artifact{} {verb}; the store had {} and {has} {}",
        report.removed.len(),
        if report.removed.len() == 1 { "" } else { "s" },
        size(report.size_before),
        size(report.size_after)
    ));
    Ok(())
}
