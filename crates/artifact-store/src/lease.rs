//! A hold on an artifact, so that pruning leaves it alone.
//!
//! A lease is a shared lock on `leases/<digest>`; the operating system drops
//! it with the process, so a killed worker leaves none behind. The files are
//! never removed: a lock on a file that another process has unlinked would
//! protect nothing. Their modification time is the artifact's last use.

use std::{
    fs::{self, File},
    path::Path,
    time::SystemTime,
};

use crate::{
    Digest, Holder, Store, StoreError,
    error::IoContext,
    files::open_regular,
    holders::{holder, sharers},
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

impl Store {
    /// Takes the lease on an artifact. Waits only while a prune decides about it, and with a limit.
    pub(crate) fn lease(&self, digest: Digest) -> Result<Lease, StoreError> {
        let (file, path) = (open(&self.layout, digest)?, self.layout.lease(digest));
        wait(&file, &path, LockKind::Shared, self.lock_patience)?;
        Ok(Lease { file })
    }

    /// The other processes that use an artifact: `None` if nobody does, an
    /// empty list if somebody does and the platform does not say who.
    pub fn holders(&self, digest: Digest) -> Result<Option<Vec<Holder>>, StoreError> {
        let path = self.layout.lease(digest);
        let Ok(lease) = fs::symlink_metadata(&path) else { return Ok(None) };
        let pids = sharers(&lease);
        let own = std::process::id();
        let others: Vec<Holder> = pids.iter().filter(|pid| **pid != own).map(|&pid| holder(pid)).collect();
        if !others.is_empty() {
            return Ok(Some(others));
        }
        // Processes of another container are not in the list, and a lease of
        // our own would be in the way of asking.
        let busy = !pids.contains(&own) && Lease::take_exclusive(&self.layout, digest)?.is_none();
        Ok(busy.then(Vec::new))
    }
}

impl Lease {
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
