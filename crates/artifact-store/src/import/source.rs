//! Reading what others wrote: regular files only, with bounds, and only as long as they do not change.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use crate::{StoreError, error::IoContext};

/// The permission to read: of the owner, the group, the others.
const READ: u32 = 0o444;

/// An open source file, and what it was when it was opened.
pub(super) struct SourceFile {
    path: PathBuf,
    file: File,
    then: Snapshot,
}

/// What a change of a file changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    len: u64,
    /// Device and number of the file: another one took its place.
    identity: (u64, u64),
    /// Seconds and nanoseconds, of the content and of the rest.
    modified: (i64, i64),
    changed: (i64, i64),
    /// Permissions.
    mode: u32,
}

impl SourceFile {
    /// Opens the file that the user named, following links.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        Self::from_opened(path, path, |path| {
            OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)
        })
    }

    /// Opens a regular file with `open`, which does not wait: anything else (a pipe, a device) could block for ever or
    /// never end. `path` is for errors, `real` is what is opened.
    pub(super) fn from_opened(
        path: &Path,
        real: &Path,
        open: impl FnOnce(&Path) -> io::Result<File>,
    ) -> Result<Self, StoreError> {
        // Asked before opening too, since opening a device can already do something.
        if fs::metadata(real).context("read", path)?.is_file() {
            let file = open(real).context("open", path)?;
            let opened = file.metadata().context("inspect", path)?;
            if opened.is_file() {
                return Ok(Self { path: path.to_owned(), file, then: Snapshot::of(&opened) });
            }
        }
        Err(StoreError::bad_source(path, "it is not a regular file"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes.
    pub(super) fn len(&self) -> u64 {
        self.then.len
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.then
    }

    /// Its read permissions, which what is made of it has at most.
    pub(super) fn readers(&self) -> u32 {
        self.then.readers()
    }

    /// Its bytes, at most `limit`.
    pub(super) fn read_all(&self, limit: u64) -> Result<Vec<u8>, StoreError> {
        if self.len() > limit {
            let reason = format!("it has {} bytes, more than {limit}", self.len());
            return Err(StoreError::bad_source(&self.path, reason));
        }
        let mut bytes = vec![0; self.len() as usize];
        self.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// From its start to the end that it had when it was opened.
    pub(super) fn reader(&self) -> impl Read + '_ {
        Sequential { file: &self.file, at: 0 }.take(self.then.len)
    }

    pub(super) fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), StoreError> {
        match self.file.read_exact_at(bytes, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.changed()),
            other => other.context("read", &self.path),
        }
    }

    /// The error that says so.
    pub(super) fn changed(&self) -> StoreError {
        changed(&self.path)
    }

    /// An error if the file is not what it was, or if another one has its name.
    pub(super) fn check_unchanged(&self) -> Result<(), StoreError> {
        if Snapshot::of(&self.file.metadata().context("inspect", &self.path)?) != self.then {
            return Err(self.changed());
        }
        self.then.check(&self.path)
    }
}

impl Snapshot {
    /// Its read permissions.
    pub(super) fn readers(&self) -> u32 {
        self.mode & READ
    }

    /// An error if the file at `path` is not the one this is of, as it was then.
    pub(super) fn check(&self, path: &Path) -> Result<(), StoreError> {
        if Self::of(&metadata(path)?) == *self { Ok(()) } else { Err(changed(path)) }
    }

    fn of(metadata: &Metadata) -> Self {
        Self {
            len: metadata.len(),
            identity: (metadata.dev(), metadata.ino()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            mode: metadata.mode(),
        }
    }
}

/// Reads on from `at` without moving the file's own position, which readers on other threads share.
struct Sequential<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Sequential<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Follows symbolic links, which the Hugging Face cache is made of.
pub(super) fn metadata(path: &Path) -> Result<Metadata, StoreError> {
    fs::metadata(path).context("read", path)
}

fn changed(path: &Path) -> StoreError {
    StoreError::bad_source(
        path,
        "it changed while it was imported; import it again when nothing writes to it",
    )
}
