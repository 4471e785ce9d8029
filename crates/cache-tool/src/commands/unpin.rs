//! `cache-tool unpin`.

use crate::{output::print_pinned, store_args::StoreArgs};

/// Allow a pinned artifact to be removed again.
///
/// Example: cache-tool unpin smollm2-135m
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
    let changed = store.unpin(&args.name)?;
    print_pinned(&store, &args.name, changed, args.json)
}
