//! Looking at one blob, and setting it aside if it is not what it should be.

use std::{
    fmt,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
};

use crate::{
    Digest, Store, StoreError,
    files::{exists, open_regular},
};

/// What is wrong with a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlobDefect {
    /// It is not there.
    Missing,
    /// Something else than a regular file has its place.
    NotAFile,
    /// It has another size, in bytes.
    Size {
        /// As the manifest has it.
        expected: u64,
        /// As the disk has it.
        found: u64,
    },
    /// Its bytes have another SHA-256 than its name.
    Digest {
        /// That of its bytes.
        found: Digest,
    },
    /// The operating system can't read it, and says why.
    Unreadable(String),
}

impl fmt::Display for BlobDefect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "it is missing"),
            Self::NotAFile => write!(f, "it is not a regular file"),
            Self::Size { expected, found } => write!(f, "it has {found} bytes instead of {expected}"),
            Self::Digest { found } => write!(f, "the SHA-256 of its bytes is {}…", found.short()),
            Self::Unreadable(reason) => write!(f, "it can't be read: {reason}"),
        }
    }
}

/// Which file on the disk had a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
    /// Seconds and nanoseconds: the number may be given to another file later.
    modified: (i64, i64),
}

/// A blob that is not what it should be.
#[derive(Debug)]
pub(crate) struct Bad {
    pub(crate) defect: BlobDefect,
    /// The file that was looked at; `None` where there was none.
    pub(crate) seen: Option<FileId>,
}

impl FileId {
    fn of(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Self { device: metadata.dev(), inode: metadata.ino(), modified }
    }
}

impl From<io::Error> for Bad {
    fn from(error: io::Error) -> Self {
        let defect = match error.kind() {
            io::ErrorKind::NotFound => BlobDefect::Missing,
            _ => BlobDefect::Unreadable(error.to_string()),
        };
        Self { defect, seen: None }
    }
}

/// Why reading a blob ended early.
enum Stopped {
    Unreadable(io::Error),
    Cancelled(StoreError),
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error)
    }
}

/// Reads a blob whole. `advanced` is told the bytes of each chunk, and can
/// stop the work.
pub(crate) fn check(
    store: &Store,
    blob: Digest,
    size: u64,
    advanced: impl FnMut(u64) -> Result<(), StoreError>,
) -> Result<Result<(), Bad>, StoreError> {
    let mut file = match open(store, blob, size) {
        Ok(file) => file,
        Err(bad) => return Ok(Err(bad)),
    };
    let mut advanced = advanced;
    match Digest::of_chunks(&mut file.0, |bytes| advanced(bytes).map_err(Stopped::Cancelled)) {
        Ok((found, _)) if found == blob => Ok(Ok(())),
        Ok((found, _)) => Ok(Err(Bad { defect: BlobDefect::Digest { found }, seen: Some(file.1) })),
        Err(Stopped::Unreadable(error)) => Ok(Err(error.into())),
        Err(Stopped::Cancelled(error)) => Err(error),
    }
}

/// Opens a blob after looking at it from outside.
fn open(store: &Store, blob: Digest, size: u64) -> Result<(fs::File, FileId), Bad> {
    let path = store.layout.blob(blob);
    let metadata = fs::symlink_metadata(&path)?;
    let seen = Some(FileId::of(&metadata));
    if !metadata.is_file() {
        return Err(Bad { defect: BlobDefect::NotAFile, seen });
    }
    let file = open_regular(&path)?;
    let metadata = file.metadata()?;
    let seen = FileId::of(&metadata);
    if metadata.len() != size {
        let defect = BlobDefect::Size { expected: size, found: metadata.len() };
        return Err(Bad { defect, seen: Some(seen) });
    }
    Ok((file, seen))
}

/// Moves a blob to `quarantine/`, if it still is the file that was looked at;
/// `false` if it was repaired or removed meanwhile. Waits for no writer, only
/// while one places or removes a blob; who has the file mapped keeps it.
pub(crate) fn set_aside(store: &Store, blob: Digest, seen: FileId) -> Result<bool, StoreError> {
    store.check_writable()?;
    let (place, aside) = (store.layout.blob(blob), store.layout.quarantined(blob));
    let _lock = store.lock_blobs()?;
    let is_it = |path| fs::symlink_metadata(path).is_ok_and(|metadata| FileId::of(&metadata) == seen);
    if !is_it(&place) {
        return Ok(false);
    }
    store.rename(&place, &aside)?;
    if is_it(&aside) {
        return Ok(true);
    }
    // Another program replaced it between the look and the move: back with the good one.
    if exists(&place) {
        store.remove_file(&aside)?;
    } else {
        store.rename(&aside, &place)?;
    }
    Ok(false)
}
