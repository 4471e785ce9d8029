//! `cache-tool list`.

use artifact_store::{ArtifactState, ArtifactSummary};
use serde_json::Value;

use crate::{
    output::{Rows, ago, names, print_json, say, size, summary_json},
    store_args::StoreArgs,
};

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

pub(crate) fn run(store_args: &StoreArgs, args: &Args) -> anyhow::Result<()> {
    let artifacts = store_args.open_read_only()?.list()?;
    if args.json {
        return print_json(&Value::Array(artifacts.iter().map(summary_json).collect()));
    }
    let mut rows = Rows::with_header(["NAME", "ARCHITECTURE", "SIZE", "LAST USE", "DIGEST", "STATE"]);
    for artifact in &artifacts {
        rows.add_row([
            names(artifact),
            architecture(artifact),
            size(artifact.size),
            ago(artifact.last_use),
            artifact.digest.short(),
            state(artifact),
        ]);
    }
    rows.print()?;
    if artifacts.iter().any(|artifact| artifact.state != ArtifactState::Ready) {
        say("`cache-tool repair --dry-run` says what is wrong and how to repair it");
    }
    Ok(())
}

fn architecture(artifact: &ArtifactSummary) -> String {
    if artifact.base.is_some() {
        return "adapter".to_owned();
    }
    artifact.architecture.clone().unwrap_or_else(|| "-".to_owned())
}

fn state(artifact: &ArtifactSummary) -> String {
    let pinned = if artifact.pinned { ", pinned" } else { "" };
    format!("{}{pinned}", artifact.state)
}
