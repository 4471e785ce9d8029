//! `cache-tool list`.

use std::path::Path;

use artifact_store::Store;
use serde_json::Value;

use crate::output::{ago, listed_json, names, print_json, print_table, size, table};

/// List what the store holds, the most recently used first.
///
/// Example: cache-tool list --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Print JSON: an array of artifacts, sizes in bytes, times in seconds since 1970
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(store: &Path, args: &Args) -> anyhow::Result<()> {
    let artifacts = Store::open_read_only(store)?.list()?;
    if args.json {
        return print_json(&Value::Array(artifacts.iter().map(listed_json).collect()));
    }
    let mut rows = table(["NAME", "ARCHITECTURE", "SIZE", "LAST USE", "DIGEST"]);
    for artifact in &artifacts {
        rows.add_row([
            names(artifact),
            artifact.architecture.clone().unwrap_or_else(|| "-".to_owned()),
            size(artifact.size),
            ago(artifact.last_use),
            artifact.digest.short(),
        ]);
    }
    print_table(&rows)
}
