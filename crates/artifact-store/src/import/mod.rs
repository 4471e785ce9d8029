//! Taking models into the store: hash, transform once, write, sync, rename.

mod gguf;
mod huggingface;
mod source;

use std::path::Path;

use crate::{Imported, Observer, Store, StoreError, layout::check_name, writer::Writer};

impl Store {
    /// Imports a GGUF file, or a folder as Hugging Face publishes models
    /// (`config.json`, safetensors, `tokenizer.json`), under `name` or the
    /// name of the file or folder. A name that exists stands for the new
    /// artifact afterwards. Importing the same bytes again stores nothing.
    ///
    /// # Errors
    /// On any error the store is as it was before.
    pub fn import(
        &self,
        source: &Path,
        name: Option<&str>,
        observer: &mut Observer<'_>,
    ) -> Result<Imported, StoreError> {
        self.check_writable()?;
        let is_folder = source::metadata(source)?.is_dir();
        let name = match name {
            Some(name) => name.to_owned(),
            None => default_name(source, is_folder)?,
        };
        check_name(&name)?;
        let writer = Writer::begin(self, observer)?;
        let (manifest, files) = if is_folder {
            huggingface::stage(&writer, source, observer)?
        } else {
            gguf::stage(&writer, source, observer)?
        };
        writer.commit(&manifest, files, &name)
    }
}

fn default_name(source: &Path, is_folder: bool) -> Result<String, StoreError> {
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
