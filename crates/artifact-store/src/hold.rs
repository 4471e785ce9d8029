//! Holds on blobs that no lease protects: a download that uses a stored file has no artifact yet.
//!
//! A hold is a locked file `holds/<random>` with a line for each blob. The operating system drops the lock with the
//! process; the next process that removes blobs then removes the file.

use std::{collections::BTreeSet, fs, io::Write, path::PathBuf};

use tempfile::NamedTempFile;

use crate::{
    Digest, Store, StoreError,
    error::IoContext,
    files::{file_names, open_regular, read_regular},
    lock::{BlobLock, LockKind, try_lock},
    private::give_to_owner_of,
};

/// Keeps stored blobs where they are, whatever becomes of the artifacts that use them, until it is dropped or its
/// process ends.
#[derive(Debug)]
pub struct BlobHold {
    store: Store,
    /// Locked; closing it lets go.
    file: NamedTempFile,
}

impl Store {
    /// A hold on no blob yet; see [`BlobHold::add`].
    pub fn hold_blobs(&self) -> Result<BlobHold, StoreError> {
        self.check_writable()?;
        let folder = self.layout.holds();
        self.make_folder(&folder)?;
        // Until it is locked, it looks like one that a killed process left.
        let _lock = self.lock_blobs()?;
        let file = NamedTempFile::new_in(&folder).context("create a file in", &folder)?;
        give_to_owner_of(&folder, file.as_file());
        try_lock(file.as_file(), file.path(), LockKind::Exclusive)?;
        Ok(BlobHold { store: self.clone(), file })
    }

    /// The blobs that any process holds. Nobody begins to hold another one while `_lock` lives.
    ///
    /// # Errors
    /// A hold can't be read: then nobody knows which blobs it is on, and none may be removed.
    pub(crate) fn held_blobs(&self, _lock: &BlobLock) -> Result<BTreeSet<Digest>, StoreError> {
        let folder = self.layout.holds();
        let mut held = BTreeSet::new();
        for name in file_names(&folder)? {
            let path = folder.join(name);
            let file = match open_regular(&path) {
                // Dropped just now.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                opened => opened.context("open", &path)?,
            };
            if try_lock(&file, &path, LockKind::Shared)? {
                // The next one will find it again.
                let _ = fs::remove_file(&path);
                continue;
            }
            let text = match read_regular(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                text => text.context("read", &path)?,
            };
            held.extend(
                String::from_utf8_lossy(&text).lines().filter_map(|line| line.parse::<Digest>().ok()),
            );
        }
        Ok(held)
    }

    /// The same at this moment, for decisions that are looked at again before anything is removed.
    pub(crate) fn held_blobs_now(&self) -> Result<BTreeSet<Digest>, StoreError> {
        if file_names(&self.layout.holds())?.is_empty() {
            return Ok(BTreeSet::new());
        }
        self.held_blobs(&self.lock_blobs()?)
    }
}

impl BlobHold {
    /// Holds the blob of this digest and size, if it is stored, and says where it is. What is there from now on stays
    /// there; its content is not verified.
    pub fn add(&mut self, blob: Digest, size: u64) -> Result<Option<PathBuf>, StoreError> {
        let _lock = self.store.lock_blobs()?;
        let Some(path) = self.store.stored_blob(blob, size) else { return Ok(None) };
        let line = format!("{blob}\n");
        self.file.write_all(line.as_bytes()).context("write", self.file.path())?;
        Ok(Some(path))
    }
}
