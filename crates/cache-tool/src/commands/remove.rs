//! `cache-tool remove`.

use serde_json::json;

use crate::{
    output::{print_json, say, size, summary_json},
    progress::say_waiting,
    store_args::StoreArgs,
};

/// Remove a name, and with its last name an artifact.
///
/// Files that another artifact uses stay. A digest stands for the artifact
/// with all its names. What a process uses is not removed.
///
/// Example: cache-tool remove smollm2-135m
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// A name, a digest, or the first digits of a digest
    name: String,
    /// Remove it even if it is pinned
    #[arg(long)]
    force: bool,
    /// Print JSON, sizes in bytes, times in seconds since 1970
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(store_args: &StoreArgs, args: &Args) -> anyhow::Result<()> {
    let removed = store_args.open_existing()?.remove(&args.name, args.force, &mut say_waiting)?;
    if args.json {
        return print_json(&json!({
            "names": removed.names,
            "other_names": removed.other_names,
            "artifact": removed.artifact.as_ref().map(summary_json),
            "freed": removed.freed,
        }));
    }
    match &removed.artifact {
        Some(artifact) => {
            let freed = match removed.freed {
                0 => "nothing: other artifacts use its files".to_owned(),
                bytes => size(bytes),
            };
            let digest = artifact.digest.short();
            say(&format!("removed `{}` with its artifact {digest}, which frees {freed}", args.name));
        }
        None => say(&format!(
            "removed the name `{}`; its artifact stays as {}",
            args.name,
            removed.other_names.join(", ")
        )),
    }
    Ok(())
}
