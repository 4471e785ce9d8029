//! `cache-tool pull`.

use artifact_store::{Store, check_config_file};

use super::import::{QuantizeArgs, import};
use crate::{
    download::Download,
    hub::{self, Hub, Index, Repository},
    output::print_imported,
    store_args::StoreArgs,
};

/// Download a model from the Hugging Face Hub into the store.
///
/// REPO is ORGANISATION/NAME; a revision is a branch, a tag or a commit. Of a
/// repository with safetensors, the weights, settings, tokenizer and chat
/// template are downloaded; of one with GGUF files, the one named by --file.
/// Then they are imported as `import` does it, and the download is removed.
/// Interrupted, the same command goes on where it stopped.
///
/// HF_ENDPOINT names another hub; HF_TOKEN opens private and gated models.
///
/// Example: cache-tool pull mlx-community/Llama-3.2-1B-Instruct-4bit
/// Example: cache-tool pull bartowski/SmolLM2-135M-Instruct-GGUF --file SmolLM2-135M-Instruct-Q4_K_M.gguf
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Which repository
    #[arg(value_name = "REPO[@REVISION]", value_parser = Repository::parse)]
    repository: Repository,
    /// A GGUF file of the repository
    #[arg(long, value_name = "PATH")]
    file: Option<String>,
    /// What to call it [default: the name of the repository]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    quantize: QuantizeArgs,
    /// Print JSON, sizes in bytes
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(store_args: &StoreArgs, args: &Args) -> anyhow::Result<()> {
    let options = args.quantize.options()?;
    let name = args.name.as_deref().unwrap_or(&args.repository.id);
    // Before an hour of downloading.
    Store::check_name(name)?;
    let hub = Hub::from_env()?;
    let snapshot = hub.snapshot(&args.repository)?;
    let gguf = args.file.as_deref().map(|path| hub::gguf_file(&snapshot, path)).transpose()?;
    let settings = if gguf.is_some() { Vec::new() } else { hub::settings(&snapshot)? };
    if gguf.is_none() && hub::index_of(&settings).is_none() {
        // For its error.
        hub::weights(&snapshot, None)?;
    }

    let store = store_args.open()?;
    let mut folder = Download::begin(&store, &hub, &snapshot)?;
    let source = match gguf {
        Some(file) => {
            folder.fetch(&[file], &options)?;
            folder.place(file)
        }
        None => {
            folder.fetch(&settings, &options)?;
            // Before the weights, which are all the rest.
            for config in settings.iter().filter(|file| file.path == "config.json") {
                check_config_file(&folder.place(config))?;
            }
            let index = match hub::index_of(&settings) {
                Some(file) => Index::read(&folder.place(file), &snapshot)?,
                None => None,
            };
            folder.fetch(&hub::weights(&snapshot, index.as_ref())?, &options)?;
            folder.path().to_owned()
        }
    };
    folder.remove_others()?;
    let imported = import(&store, &source, Some(name), &options)?;
    folder.remove()?;
    print_imported(&imported, args.json)
}
