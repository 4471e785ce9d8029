//! A hold on an artifact, so that pruning leaves it alone.
//!
//! A lease is a shared lock on `leases/<digest>`; the operating system drops
//! it with the process, so a killed worker leaves none behind. The files are
//! never removed: a lock on a file that another process has unlinked would
//! protect nothing. Their modification time is the artifact's last use.

use std::{fs::File, path::Path, time::SystemTime};

use crate::{
    Digest, Store, StoreError,
    disk::open_regular,
    error::IoContext,
    layout::Layout,
    lock::{LockKind, try_lock, wait},
    private::open_lock,
};

/// Held for as long as an artifact is in use.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Its lock is what protects; closing it lets go.
    file: File,
}

impl Lease {
    /// Waits only while a prune decides about this artifact, and with a limit.
    pub(crate) fn take(store: &Store, digest: Digest) -> Result<Self, StoreError> {
        let (file, path) = (open(&store.layout, digest)?, store.layout.lease(digest));
        wait(&file, &path, LockKind::Shared, store.lock_patience)?;
        Ok(Self { file })
    }

    /// The sole hold on an artifact that nobody uses, or `None`.
    pub(crate) fn take_exclusive(layout: &Layout, digest: Digest) -> Result<Option<Self>, StoreError> {
        let file = open(layout, digest)?;
        let free = try_lock(&file, &layout.lease(digest), LockKind::Exclusive)?;
        Ok(free.then_some(Self { file }))
    }

    /// Makes `now` the last use. Costs one system call.
    pub(crate) fn touch(&self, now: SystemTime, path: &Path) -> Result<(), StoreError> {
        self.file.set_modified(now).context("set the time of", path)
    }
}

/// A folder that can't be written still has the lease file import made.
fn open(layout: &Layout, digest: Digest) -> Result<File, StoreError> {
    let path = layout.lease(digest);
    open_lock(&path).or_else(|_| open_regular(&path)).context("open", &path)
}
