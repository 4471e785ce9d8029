//! What is used of prefixes on disk.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use protocol::message::DiskPrefixes;

use super::folder::Folder;

/// Looks at what is used of a store, from any thread.
#[derive(Debug)]
pub struct PrefixUsage {
    folder: Arc<Folder>,
    counts: Arc<Counts>,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Counts {
    reads: AtomicU64,
    tokens: AtomicU64,
}

impl PrefixUsage {
    pub(super) fn new(folder: Arc<Folder>, counts: Arc<Counts>) -> Self {
        Self { folder, counts }
    }

    /// What was read so far, and what the folder has, which all workers share.
    pub fn now(&self) -> DiskPrefixes {
        DiskPrefixes {
            reads: self.counts.reads.load(Ordering::Relaxed),
            tokens: self.counts.tokens.load(Ordering::Relaxed),
            bytes: self.folder.used(),
        }
    }
}

impl Counts {
    pub(super) fn count_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_tokens(&self, tokens: usize) {
        self.tokens.fetch_add(tokens as u64, Ordering::Relaxed);
    }
}
