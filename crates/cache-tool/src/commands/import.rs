//! `cache-tool import`.

use std::path::PathBuf;

use crate::{output::print_imported, place::Place, progress::ImportProgress};

/// Take a model into the store.
///
/// SOURCE is a GGUF file of the llama architecture, or a folder with
/// config.json, tokenizer.json and safetensors files. Its bytes are checked,
/// converted where MLX needs another layout, and stored once however often
/// they are imported. Prints the digest of the artifact.
///
/// Example: cache-tool import SmolLM2-135M-Instruct.Q4_1.gguf --name smollm2-135m
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// A .gguf file, or a folder as Hugging Face publishes models
    source: PathBuf,
    /// What to call it [default: the name of the file or folder]
    #[arg(long)]
    name: Option<String>,
    /// Print JSON, sizes in bytes
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(place: &Place, args: &Args) -> anyhow::Result<()> {
    // A wrong path should not leave an empty store behind.
    args.source
        .metadata()
        .map_err(|error| anyhow::anyhow!("cannot read {}: {error}", args.source.display()))?;
    let store = place.open()?;
    let mut progress = ImportProgress::new()?;
    let imported = store.import(&args.source, args.name.as_deref(), &mut |event| progress.observe(event));
    progress.finish();
    print_imported(&imported?, args.json)
}
