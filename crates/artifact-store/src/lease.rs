//! A hold on an artifact, so that pruning leaves it alone.
//!
//! A lease is a shared lock on `leases/<digest>`; the operating system drops
//! it with the process, so a killed worker leaves none behind. The files are
//! never removed: a lock on a file that another process has unlinked would
//! protect nothing. Their modification time is the artifact's last use.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::Path,
    time::SystemTime,
};

use crate::{
    Digest, StoreError,
    disk::{exists, open_regular},
    error::IoContext,
    layout::Layout,
};

/// Held for as long as an artifact is in use.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Its lock is what protects; closing it lets go.
    file: File,
}

impl Lease {
    /// Waits only while a prune decides about this artifact.
    pub(crate) fn take(layout: &Layout, digest: Digest) -> Result<Self, StoreError> {
        let path = layout.lease(digest);
        // A folder that can't be written still has the lease file import made.
        let file = open_or_create(&path).or_else(|_| open_regular(&path)).context("open", &path)?;
        file.lock_shared().context("lock", &path)?;
        Ok(Self { file })
    }

    /// The sole hold on an artifact that nobody uses, or `None`.
    pub(crate) fn take_exclusive(layout: &Layout, digest: Digest) -> Result<Option<Self>, StoreError> {
        let path = layout.lease(digest);
        let file = open_or_create(&path).or_else(|_| open_regular(&path)).context("open", &path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(source).context("lock", &path),
        }
    }

    /// Makes `now` the last use. Costs one system call.
    pub(crate) fn touch(&self, now: SystemTime, path: &Path) -> Result<(), StoreError> {
        self.file.set_modified(now).context("set the time of", path)
    }
}

/// A symbolic link could lead to a file that is no lease.
fn open_or_create(path: &Path) -> std::io::Result<File> {
    if exists(path) {
        open_regular(path)?;
    }
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}
