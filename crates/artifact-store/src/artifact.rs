//! A stored model in the hands of someone who loads it.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read, Seek},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::Deserialize;

use crate::{
    Digest, FileEntry, FileRole, Manifest, Store, StoreError, TensorEntry,
    error::IoContext,
    files::{exists, open_regular, read_regular},
    layout::Layout,
    lease::Lease,
    manifest::FORMAT,
    weights,
};

/// How often a name is looked up again whose artifact went meanwhile.
const MAX_LOOKS: usize = 8;
/// A resolved artifact. While it lives, no process prunes it.
#[derive(Debug)]
pub struct Artifact {
    /// The name or digest it was asked for by.
    pub name: String,
    /// SHA-256 of the manifest.
    pub digest: Digest,
    /// What it is made of.
    pub manifest: Manifest,
    pub(crate) store: Store,
    lease: Lease,
}

/// The part of a manifest that every version of it has.
#[derive(Deserialize)]
struct Versioned {
    format: u64,
}

impl Store {
    /// Finds an artifact by name, by digest (with or without `sha256:`), or by
    /// the first digits of a digest, at least 8. Costs the same however many
    /// or large the artifacts are, except for a shortened digest.
    pub fn resolve(&self, name_or_digest: &str) -> Result<Artifact, StoreError> {
        for _ in 0..MAX_LOOKS {
            let digest = self.locate(name_or_digest)?;
            if let Some(artifact) = Artifact::open(self, name_or_digest, digest)? {
                return Ok(artifact);
            }
            // It was removed just now; the name may stand for another one already.
        }
        Err(self.unknown(name_or_digest)?)
    }

    /// The verified manifest of an artifact. It takes no lease: the artifact can be removed at any time.
    /// `None`: there is no such artifact.
    pub fn manifest(&self, digest: Digest) -> Result<Option<Manifest>, StoreError> {
        read_manifest(&self.layout, digest)
    }
}

impl Artifact {
    /// Reads the manifest and takes the lease. `None`: no such artifact.
    pub(crate) fn open(store: &Store, name: &str, digest: Digest) -> Result<Option<Self>, StoreError> {
        let layout = &store.layout;
        // The lease first: what is read after it can't be pruned any more.
        // Without a manifest there is nothing to hold, and no file to make.
        if !exists(&layout.manifest(digest)) {
            return Ok(None);
        }
        let lease = store.lease(digest)?;
        let Some(manifest) = read_manifest(layout, digest)? else { return Ok(None) };
        Ok(Some(Self { name: name.to_owned(), digest, manifest, store: store.clone(), lease }))
    }

    /// Makes now its last use, for least-recently-used eviction.
    pub fn record_use(&self) -> Result<(), StoreError> {
        self.lease.touch(SystemTime::now(), &self.store.layout.lease(self.digest))
    }

    /// The files with this role, with their index in the manifest.
    pub fn files(&self, role: FileRole) -> impl Iterator<Item = (usize, &FileEntry)> {
        self.manifest.files.iter().enumerate().filter(move |(_, file)| file.role == role)
    }

    /// Where the bytes of `file` are. They never change; don't write to them.
    pub fn blob_path(&self, file: &FileEntry) -> PathBuf {
        self.store.layout.blob(file.blob)
    }

    /// Opens a file's blob after checking what can be checked without reading
    /// it all: its size and, for weights, that its header says what the
    /// manifest says.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if either does not fit or the blob is not there,
    /// [`StoreError::Quarantined`] if it failed a verification: what can't be
    /// verified is not loaded.
    pub fn open_blob(&self, file: &FileEntry) -> Result<File, StoreError> {
        let path = self.blob_path(file);
        let opened = match open_regular(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.missing(file)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(StoreError::damaged(&path, error.to_string()));
            }
            opened => opened.context("open", &path)?,
        };
        let size = opened.metadata().context("inspect", &path)?.len();
        if size != file.size {
            return Err(StoreError::damaged(&path, format!("it has {size} bytes instead of {}", file.size)));
        }
        if file.role == FileRole::Weights {
            self.check_header(file, &opened)?;
        }
        Ok(opened)
    }

    /// Reads a small file whole and checks its SHA-256.
    pub fn read_blob(&self, file: &FileEntry) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(file);
        let mut bytes = Vec::new();
        let mut opened = self.open_blob(file)?;
        opened.rewind().and_then(|()| opened.read_to_end(&mut bytes)).context("read", &path)?;
        if Digest::of(&bytes) != file.blob {
            return Err(StoreError::damaged(&path, "its SHA-256 is not its name"));
        }
        Ok(bytes)
    }

    /// The bytes of `tokenizer.json`, verified.
    pub fn read_tokenizer(&self) -> Result<Vec<u8>, StoreError> {
        let missing = || StoreError::MissingFile { digest: self.digest, what: "tokenizer" };
        let (_, file) = self.files(FileRole::Tokenizer).next().ok_or_else(missing)?;
        self.read_blob(file)
    }

    /// Why a blob is not in its place.
    pub(crate) fn missing(&self, file: &FileEntry) -> StoreError {
        let quarantined = self.store.layout.quarantined(file.blob);
        if exists(&quarantined) {
            let (artifact, file) = (self.name.clone(), file.name.clone());
            return StoreError::Quarantined { artifact, file, path: quarantined };
        }
        StoreError::damaged(&self.blob_path(file), "it is missing")
    }

    fn check_header(&self, file: &FileEntry, opened: &File) -> Result<(), StoreError> {
        let path = self.blob_path(file);
        let header = weights::read_header(&mut BufReader::new(opened), file.size)
            .map_err(|error| StoreError::damaged(&path, error.to_string()))?;
        let mut expected: HashMap<&str, &TensorEntry> = self
            .manifest
            .tensors
            .iter()
            .filter(|tensor| self.manifest.files.get(tensor.file) == Some(file))
            .map(|tensor| {
                let name = tensor.name.as_str();
                let of_module = file.module().and_then(|module| name.strip_prefix(module)?.strip_prefix('.'));
                (of_module.unwrap_or(name), tensor)
            })
            .collect();
        for found in &header {
            let same = |entry: &TensorEntry| {
                (entry.dtype, &entry.shape, entry.offset, entry.len)
                    == (found.dtype, &found.shape, found.offset, found.len)
            };
            if !expected.remove(found.name.as_str()).is_some_and(same) {
                let reason = format!("tensor `{}` is not as the manifest has it", found.name);
                return Err(StoreError::damaged(&path, reason));
            }
        }
        match expected.keys().next() {
            None => Ok(()),
            Some(name) => Err(StoreError::damaged(&path, format!("tensor `{name}` is missing"))),
        }
    }
}

/// The manifest with this digest, verified against it; `None` if there is none.
pub(crate) fn read_manifest(layout: &Layout, digest: Digest) -> Result<Option<Manifest>, StoreError> {
    let path = layout.manifest(digest);
    let bytes = match read_regular(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(StoreError::damaged(&path, error.to_string()));
        }
        Err(error) => return Err(error).context("read", &path),
    };
    if Digest::of(&bytes) != digest {
        return Err(StoreError::damaged(&path, "its SHA-256 is not its name"));
    }
    parse_manifest(&bytes, &path).map(Some)
}

/// The manifest in these bytes; `path` is where they are.
pub(crate) fn parse_manifest(bytes: &[u8], path: &Path) -> Result<Manifest, StoreError> {
    if let Ok(Versioned { format }) = serde_json::from_slice(bytes)
        && format > u64::from(FORMAT)
    {
        return Err(StoreError::NewerFormat { path: path.to_owned(), format, readable: FORMAT });
    }
    let manifest: Manifest =
        serde_json::from_slice(bytes).map_err(|error| StoreError::damaged(path, error.to_string()))?;
    match manifest.defect() {
        None => Ok(manifest),
        Some(reason) => Err(StoreError::damaged(path, reason)),
    }
}
