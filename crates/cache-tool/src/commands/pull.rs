//! `cache-tool pull`.

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::Context;
use artifact_store::{ImportOptions, Store};
use serde_json::Value;

use super::import::{QuantizeArgs, import};
use crate::{
    hub::{self, Hub, RemoteFile, Repository, Snapshot},
    output::print_imported,
    place::Place,
    progress::PullProgress,
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

pub(crate) fn run(place: &Place, args: &Args) -> anyhow::Result<()> {
    let options = args.quantize.options()?;
    let name = args.name.as_deref().unwrap_or(&args.repository.id);
    // Before an hour of downloading.
    Store::check_name(name)?;
    let hub = Hub::from_env();
    let snapshot = hub.snapshot(&args.repository)?;
    let gguf = args.file.as_deref().map(|path| hub::gguf_file(&snapshot, path)).transpose()?;
    let settings = if gguf.is_some() { Vec::new() } else { hub::settings(&snapshot)? };
    if gguf.is_none() && hub::index_of(&settings).is_none() {
        // For its error.
        hub::weights(&snapshot, None)?;
    }

    let store = place.open()?;
    let folder = Download::begin(&store, &snapshot)?;
    let source = match gguf {
        Some(file) => {
            folder.fetch(&hub, &snapshot, &[file], &options)?;
            folder.path.join(file.name())
        }
        None => {
            folder.fetch(&hub, &snapshot, &settings, &options)?;
            let index =
                hub::index_of(&settings).map(|file| read_json(&folder.path.join(file.name()))).transpose()?;
            folder.fetch(&hub, &snapshot, &hub::weights(&snapshot, index.as_ref())?, &options)?;
            folder.path.clone()
        }
    };
    let imported = import(&store, &source, Some(name), &options)?;
    folder.remove()?;
    print_imported(&imported, args.json)
}

/// A folder of the store for one commit of one repository. It is outside of the store's `tmp`, which every writer
/// clears, so that a download can be resumed.
struct Download<'a> {
    store: &'a Store,
    path: PathBuf,
    /// Held while it lives: two that append to one file would spoil it.
    _lock: File,
}

impl<'a> Download<'a> {
    fn begin(store: &'a Store, snapshot: &Snapshot) -> anyhow::Result<Self> {
        let name = format!("{}@{}", snapshot.repository.id.replace('/', "%2F"), snapshot.commit);
        let path = store.downloads().join(name);
        let create =
            || fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()));
        let lock = path.join(".lock");
        let mut told = false;
        loop {
            create()?;
            let opened = File::create(&lock).with_context(|| format!("cannot create {}", lock.display()))?;
            if opened.try_lock().is_err() {
                if !told {
                    eprintln!("waiting for another process that downloads the same");
                    told = true;
                }
                opened.lock().with_context(|| format!("cannot lock {}", lock.display()))?;
            }
            // The one that held it may have removed the folder, and a third one made it anew.
            if is_at(&opened, &lock) {
                return Ok(Self { store, path, _lock: opened });
            }
        }
    }

    fn fetch(
        &self,
        hub: &Hub,
        snapshot: &Snapshot,
        files: &[&RemoteFile],
        options: &ImportOptions,
    ) -> anyhow::Result<()> {
        let progress = PullProgress::new(files.iter().map(|file| file.size).sum())?;
        for file in files {
            self.link_stored(file)?;
        }
        self.check_room(files, options)?;
        for file in files {
            progress.begin(file.name());
            hub::download(hub, snapshot, file, &self.path, &mut |bytes| progress.advance(bytes))?;
        }
        progress.finish();
        Ok(())
    }

    /// The import copies what was downloaded, except for blobs that the store has. What it makes of a file that it
    /// quantizes is smaller, by how much is not known yet.
    fn check_room(&self, files: &[&RemoteFile], options: &ImportOptions) -> anyhow::Result<()> {
        let downloaded = files.iter().map(|file| hub::missing(file, &self.path)).sum();
        let new = files.iter().filter(|file| !self.path.join(file.name()).is_symlink());
        let imported = if options.quantize.is_none() { new.map(|file| file.size).sum() } else { 0 };
        Ok(self.store.check_room(downloaded, imported)?)
    }

    /// A file that the store has need not be downloaded.
    fn link_stored(&self, file: &RemoteFile) -> anyhow::Result<()> {
        let link = self.path.join(file.name());
        let Some(blob) = file.sha256.and_then(|digest| self.store.stored_blob(digest, file.size)) else {
            return Ok(());
        };
        if link.symlink_metadata().is_ok() {
            return Ok(());
        }
        let blob = blob.canonicalize().with_context(|| format!("cannot find {}", blob.display()))?;
        symlink(blob, &link).with_context(|| format!("cannot create {}", link.display()))
    }

    fn remove(self) -> anyhow::Result<()> {
        fs::remove_dir_all(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))?;
        // Only if it is empty.
        let _ = fs::remove_dir(self.store.downloads());
        Ok(())
    }
}

/// Whether a path still leads to an open file.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |found: fs::Metadata| (found.dev(), found.ino());
    file.metadata().is_ok_and(|open| path.metadata().is_ok_and(|there| identity(open) == identity(there)))
}

fn read_json(path: &Path) -> anyhow::Result<Value> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", path.display()))
}
