//! Whether an import fits, and what has to go for it.
//!
//! Until everything is staged, nothing goes: an import that fails has cost no artifact. What has to go is decided when
//! all the blobs are known, and goes after the new artifact has its name.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    ArtifactSummary, Digest, Manifest, Store, StoreError,
    error::IoContext,
    evict::{Candidates, Criteria, Hold, choose},
    files::exists,
    inventory::Inventory,
    writer::Writer,
};

/// Left free on the disk beyond what is written, in bytes.
const SPACE_MARGIN: u64 = 16 << 20;

/// What goes for an artifact that is about to be committed. While it lives, nobody begins to use any of it.
pub(crate) struct Room {
    candidates: Candidates,
    pub(crate) doomed: Vec<Digest>,
}

impl Store {
    /// Refuses early, before a download, what its import could never store: `downloaded` bytes that are written to the
    /// store's disk first, and `imported` bytes of the artifact made of them.
    ///
    /// # Errors
    /// [`StoreError::OverLimit`] if the artifact is larger than what the limit leaves beside pinned ones,
    /// [`StoreError::NoSpace`] if the disk has less than both.
    pub fn check_room(&self, downloaded: u64, imported: u64) -> Result<(), StoreError> {
        let artifacts = Inventory::read(self)?.artifacts.into_iter();
        let pinned = artifacts.filter(|(digest, _)| self.is_pinned(*digest));
        let pinned: BTreeMap<Digest, u64> = pinned.flat_map(|(_, manifest)| manifest.blobs()).collect();
        let (held, limit) = (pinned.values().sum::<u64>(), self.max_size);
        if imported > 0 && held.saturating_add(imported) > limit {
            return Err(StoreError::OverLimit { path: self.dir().to_owned(), needed: imported, limit, held });
        }
        check_disk(self, downloaded.saturating_add(imported))
    }
}

impl Writer<'_> {
    /// Refuses, before they are written, bytes that can't fit: on the disk as it is, and within the limit of the store
    /// if all went that may go. Several calls add up. Nothing goes yet.
    pub(crate) fn check_space(&self, bytes: u64) -> Result<(), StoreError> {
        check_disk(self.store, bytes)?;
        // What has the size of a stored blob may turn out to be that blob.
        if !self.stored_sizes()?.contains(&bytes) {
            self.announced.set(self.announced.get().saturating_add(bytes));
        }
        self.check_limit(self.announced.get())
    }

    /// The same at once for several parts that follow, before the first one is written.
    pub(crate) fn check_possible(&self, bytes: u64) -> Result<(), StoreError> {
        check_disk(self.store, bytes)?;
        self.check_limit(bytes)
    }

    /// What has to go for this artifact, all blobs of which are stored or staged. One that adds nothing to the store
    /// takes no room, however full the store is.
    ///
    /// # Errors
    /// [`StoreError::OverLimit`] if what may go is not enough.
    pub(crate) fn plan_room(&self, digest: Digest, manifest: &Manifest) -> Result<Room, StoreError> {
        let (store, limit) = (self.store, self.store.max_size);
        let mut candidates = Candidates::take(store, &BTreeSet::new())?;
        let before = candidates.size_without(&[]);
        candidates.add(digest, manifest.blobs());
        let needed = candidates.size_without(&[]) - before;
        let criteria = Criteria { max_size: Some(limit), ..Criteria::default() };
        let doomed = if needed == 0 { Vec::new() } else { choose(&candidates.all, &criteria) };
        let after = candidates.size_without(&doomed);
        if needed > 0 && after > limit {
            let path = store.dir().to_owned();
            return Err(StoreError::OverLimit { path, needed, limit, held: after - needed });
        }
        candidates.let_go_of_all_but(&doomed);
        Ok(Room { candidates, doomed })
    }

    /// Removes what has to go for an artifact, and says what went.
    ///
    /// The import it was for is done. So a failure is not its failure: what was planned stays written down
    /// ([`crate::layout::Layout::waiting_evictions`]), and the next command that writes goes on with it.
    pub(crate) fn make_room(&self, digest: Digest, room: Room) -> Vec<ArtifactSummary> {
        let (store, Room { candidates, doomed }) = (self.store, room);
        if doomed.is_empty() {
            return Vec::new();
        }
        let _ = self
            .remove_artifacts(&candidates, &doomed)
            .and_then(|()| store.remove_file_if_there(&store.layout.waiting_evictions(digest)));
        let is_gone = |digest: &Digest| !exists(&store.layout.manifest(*digest));
        candidates.describe(&doomed.into_iter().filter(is_gone).collect::<Vec<_>>())
    }

    /// Goes on with evictions that were interrupted. What came into use meanwhile, or was pinned, stays.
    pub(crate) fn finish_evictions(&self, planned: &[Digest]) -> Result<(), StoreError> {
        let mut candidates = Candidates::take(self.store, &BTreeSet::new())?;
        let free = candidates.all.iter().filter(|candidate| candidate.hold == Hold::Free);
        let free = free.map(|candidate| candidate.digest);
        let doomed: Vec<Digest> = free.filter(|digest| planned.contains(digest)).collect();
        candidates.let_go_of_all_but(&doomed);
        self.remove_artifacts(&candidates, &doomed)
    }

    /// `added` are bytes that no stored blob has.
    fn check_limit(&self, added: u64) -> Result<(), StoreError> {
        if added == 0 {
            return Ok(());
        }
        let (store, limit) = (self.store, self.store.max_size);
        let candidates = Candidates::take(store, &self.reused.borrow())?;
        let max_size = Some(limit.saturating_sub(added));
        let doomed = choose(&candidates.all, &Criteria { max_size, ..Criteria::default() });
        let held = candidates.size_without(&doomed);
        if held.saturating_add(added) <= limit {
            return Ok(());
        }
        Err(StoreError::OverLimit { path: store.dir().to_owned(), needed: added, limit, held })
    }
}

/// An error if this many more bytes do not fit on the disk.
fn check_disk(store: &Store, bytes: u64) -> Result<(), StoreError> {
    let path = store.dir().to_owned();
    let available = fs4::available_space(&path).context("inspect the file system of", &path)?;
    let needed = bytes.saturating_add(if bytes > 0 { SPACE_MARGIN } else { 0 });
    if needed <= available { Ok(()) } else { Err(StoreError::NoSpace { path, needed, available }) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::ops::ControlFlow;

    use super::*;

    #[test]
    fn what_does_not_fit_on_the_disk_is_refused_early() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap().with_max_size(u64::MAX);
        let writer = Writer::begin(&store, &mut |_| ControlFlow::Continue(())).unwrap();
        writer.check_space(1).unwrap();
        let error = writer.check_space(u64::MAX - 1).unwrap_err();
        assert!(
            matches!(error, StoreError::NoSpace { .. }) && error.to_string().contains("prune"),
            "{error}"
        );
    }
}
