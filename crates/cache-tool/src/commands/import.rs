//! `cache-tool import`.

use std::path::{Path, PathBuf};

use artifact_store::Store;

use crate::{
    output::{print, size},
    progress::ImportProgress,
};

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
}

pub(crate) fn run(store: &Path, args: &Args) -> anyhow::Result<()> {
    // A wrong path should not leave an empty store behind.
    args.source
        .metadata()
        .map_err(|error| anyhow::anyhow!("cannot read {}: {error}", args.source.display()))?;
    let store = Store::open(store)?;
    let mut progress = ImportProgress::new()?;
    let imported = store.import(&args.source, args.name.as_deref(), &mut |event| progress.observe(event));
    progress.finish();
    let imported = imported?;

    let stored = if imported.already_stored {
        "was stored already".to_owned()
    } else {
        format!("has {}, of which {} are new in the store", size(imported.size), size(imported.new_bytes))
    };
    eprintln!("`{}` {stored}", imported.name);
    if let Some(old) = imported.replaced {
        eprintln!("the name stood for {} before, which stays in the store until it is pruned", old.short());
    }
    print(&imported.digest.to_string())
}
