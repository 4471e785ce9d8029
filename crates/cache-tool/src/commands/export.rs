//! `cache-tool export`.

use std::path::PathBuf;

use serde_json::json;

use crate::{
    output::{path_json, print, print_json, say, size},
    progress::ImportProgress,
    store_args::StoreArgs,
};

/// Write an artifact as a folder that other programs open.
///
/// The folder is as Hugging Face and mlx-community publish models: safetensors
/// files, tokenizer.json, config.json, settings and chat template. It must not
/// exist, or be empty. Importing it again stores no weights again. Prints the
/// folder.
///
/// Example: cache-tool export smollm2-135m ~/models/smollm2-135m
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// A name, a digest, or the first digits of a digest
    name: String,
    /// Folder to write
    dir: PathBuf,
    /// Print JSON, sizes in bytes
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(store_args: &StoreArgs, args: &Args) -> anyhow::Result<()> {
    let artifact = store_args.open_read_only()?.resolve(&args.name)?;
    let mut progress = ImportProgress::new()?;
    let exported = artifact.export(&args.dir, &mut |event| progress.observe(event));
    progress.finish();
    let exported = exported?;
    if args.json {
        return print_json(&json!({
            "digest": artifact.digest.to_string(),
            "folder": path_json(&exported.folder),
            "files": exported.files,
            "bytes": exported.bytes,
        }));
    }
    say(&format!("wrote {} files, {}", exported.files.len(), size(exported.bytes)));
    print(&exported.folder.display().to_string())
}
