//! `cache-tool pin`.

use crate::{output::print_pinned, store_args::StoreArgs};

/// Keep an artifact, whatever is evicted or pruned.
///
/// The pin is on the artifact, not on its name: if you import something else
/// under the name, the artifact stays, and the new one is not pinned.
///
/// Example: cache-tool pin smollm2-135m
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// A name, a digest, or the first digits of a digest
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(store_args: &StoreArgs, args: &Args) -> anyhow::Result<()> {
    let store = store_args.open_existing()?;
    let changed = store.pin(&args.name)?;
    print_pinned(&store, &args.name, changed, args.json)
}
