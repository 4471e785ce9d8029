//! Taking models into the store: hash, transform once, write, sync, rename.

mod adapter;
mod affine;
mod dense;
mod embedding;
mod folder;
pub(crate) mod foreign;
mod gguf;
mod gpt_oss;
mod huggingface;
mod parts;
mod pipeline;
mod post_processor;
mod rewrite;
mod root;
mod servable;
mod shards;
mod source;
mod templates;
mod tokens;
mod vocabulary;

use std::path::{Path, PathBuf};

pub use self::folder::check_config_file;
use crate::{
    Digest, Imported, Manifest, Observer, Quantization, Store, StoreError, TensorEntry,
    artifact::parse_manifest,
    layout::{adapter_name, check_model_name},
    weights::HeaderTensor,
    writer::{Staged, Writer},
};

/// Largest manifest, in bytes: a hundred thousand tensors take about 20 MB.
const MAX_MANIFEST: usize = 128 << 20;

/// How a model is taken into the store. The default: with every value as the source has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// What to make of matrices that are not quantized: `*.weight` tensors with two dimensions (of GGUF files also three,
    /// where experts are stacked), of which the last is a multiple of the group size.
    pub quantize: Option<Quantization>,
}

/// What an import is about to publish.
struct Staging {
    manifest: Manifest,
    files: Vec<Staged>,
    /// The read permissions that all of its sources have.
    readers: u32,
    /// What the user should know.
    warnings: Vec<String>,
}

impl Store {
    /// Whether a model can have this name.
    ///
    /// # Errors
    /// [`StoreError::BadName`] if it can't.
    pub fn check_name(name: &str) -> Result<(), StoreError> {
        check_model_name(name)
    }

    /// Folder for downloads that are to be imported. Nothing in the store uses it.
    pub fn downloads(&self) -> PathBuf {
        self.dir().join("downloads")
    }

    /// Where a blob of this digest and size is, if it is stored. Nothing holds it: it may be pruned at any time.
    pub fn stored_blob(&self, digest: Digest, size: u64) -> Option<PathBuf> {
        let path = self.layout.blob(digest);
        path.metadata().is_ok_and(|found| found.is_file() && found.len() == size).then_some(path)
    }

    /// [`Store::import_with`] the default options.
    ///
    /// # Errors
    /// On any error the store is as it was before.
    pub fn import(
        &self,
        source: &Path,
        name: Option<&str>,
        observer: &mut Observer<'_>,
    ) -> Result<Imported, StoreError> {
        self.import_with(source, name, &ImportOptions::default(), observer)
    }

    /// Imports a GGUF file, or a folder as Hugging Face publishes models (`config.json`, safetensors,
    /// `tokenizer.json`), under `name` or the name of the file or folder. A name that exists stands for the new artifact
    /// afterwards. Importing the same bytes with the same options again stores nothing.
    ///
    /// # Errors
    /// On any error the store is as it was before. A source that changes meanwhile is an error.
    pub fn import_with(
        &self,
        source: &Path,
        name: Option<&str>,
        options: &ImportOptions,
        observer: &mut Observer<'_>,
    ) -> Result<Imported, StoreError> {
        self.check_writable()?;
        let is_folder = source::metadata(source)?.is_dir();
        let name = given_or_default(name, source, is_folder)?;
        check_model_name(&name)?;
        let writer = Writer::begin(self, observer)?;
        self.check_case(&name)?;
        let staging = if is_folder {
            huggingface::stage(&writer, source, options, observer)?
        } else {
            gguf::stage(&writer, source, options, observer)?
        };
        self.commit(&writer, staging, &name, source)
    }

    /// Imports a folder with an adapter, as mlx-lm or PEFT writes it, of the stored model `base`. It is named
    /// `base:name`, after the folder if there is no `name`.
    ///
    /// # Errors
    /// The adapter is of a kind that can't be served, or does not fit the base; those of
    /// [`import_with`](Self::import_with).
    pub fn import_adapter(
        &self,
        source: &Path,
        base: &str,
        name: Option<&str>,
        observer: &mut Observer<'_>,
    ) -> Result<Imported, StoreError> {
        self.check_writable()?;
        let is_folder = source::metadata(source)?.is_dir();
        let name = given_or_default(name, source, is_folder)?;
        let name = adapter_name(base, &name)?;
        if !is_folder {
            let reason = "an adapter is a folder with adapter_config.json and its weights";
            return Err(StoreError::bad_source(source, reason));
        }
        // Its lease keeps it from being evicted for its adapter.
        let base = self.resolve(base)?;
        if base.manifest.base.is_some() {
            let reason = format!("`{}` is an adapter itself: name a model with --adapter-of", base.name);
            return Err(StoreError::bad_source(source, reason));
        }
        let writer = Writer::begin(self, observer)?;
        self.check_case(&name)?;
        let staging = adapter::stage(&writer, source, &base, observer)?;
        self.commit(&writer, staging, &name, source)
    }

    fn commit(
        &self,
        writer: &Writer<'_>,
        staging: Staging,
        name: &str,
        source: &Path,
    ) -> Result<Imported, StoreError> {
        staging.check_readable(source)?;
        writer.limit_readers(staging.readers);
        let imported = writer.commit(&staging.manifest, staging.files, name)?;
        Ok(Imported { warnings: staging.warnings, ..imported })
    }
}

impl Staging {
    /// Reads the manifest the way it is read when the artifact is loaded: what could not be read is not published.
    fn check_readable(&self, source: &Path) -> Result<(), StoreError> {
        let bad = |reason: String| {
            StoreError::bad_source(source, format!("the artifact could not be read: {reason}"))
        };
        let bytes = self.manifest.canonical_bytes().map_err(|error| bad(error.to_string()))?;
        if bytes.len() > MAX_MANIFEST {
            return Err(bad(format!("its manifest has {} bytes, more than {MAX_MANIFEST}", bytes.len())));
        }
        match parse_manifest(&bytes, source) {
            Ok(_) => Ok(()),
            Err(StoreError::Damaged { reason, .. }) => Err(bad(reason)),
            Err(other) => Err(other),
        }
    }
}

/// The manifest's description of a tensor in the file with this index.
fn tensor_entry(tensor: HeaderTensor, file: usize) -> TensorEntry {
    let HeaderTensor { name, dtype, shape, offset, len } = tensor;
    TensorEntry { name, dtype, shape, file, offset, len }
}

/// `name`, or that of the file or folder if there is none.
fn given_or_default(name: Option<&str>, source: &Path, is_folder: bool) -> Result<String, StoreError> {
    if let Some(name) = name {
        return Ok(name.to_owned());
    }
    // "models/." and ".." get their names from what they stand for.
    let full = source.canonicalize().unwrap_or_else(|_| source.to_owned());
    let part = if is_folder { full.file_name() } else { source.file_stem() };
    match part.and_then(|part| part.to_str()) {
        Some(name) => Ok(name.to_owned()),
        None => {
            Err(StoreError::bad_source(source, "its name cannot name the artifact; give one with --name"))
        }
    }
}
