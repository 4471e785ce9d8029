//! Making the store smaller: the least recently used artifacts go first.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    ArtifactSummary, Digest, Observer, Store, StoreError,
    evict::{Candidates, Criteria, Hold, choose},
    writer::Writer,
};

/// What [`Store::prune`] is to remove. Artifacts go that any of `max_size` and
/// `older_than` asks for; `keep` protects, and asks for all others only when
/// it stands alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// The least recently used go until the blobs have at most so many bytes.
    pub max_size: Option<u64>,
    /// What was not used for this long goes.
    pub older_than: Option<Duration>,
    /// So many of the most recently used stay, whatever else is asked; alone,
    /// everything but these goes.
    pub keep: Option<usize>,
    /// Remove nothing; report what would be removed.
    pub dry_run: bool,
}

/// What [`Store::prune`] did, or would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PruneReport {
    /// Nothing was removed: this is what would be.
    pub dry_run: bool,
    /// Artifacts that went, the least recently used first.
    pub removed: Vec<ArtifactSummary>,
    /// Artifacts that stayed only because a process is using them.
    pub kept_in_use: Vec<ArtifactSummary>,
    /// Artifacts that stayed only because the user pinned them.
    pub kept_pinned: Vec<ArtifactSummary>,
    /// Bytes of distinct blobs before.
    pub size_before: u64,
    /// Bytes of distinct blobs after.
    pub size_after: u64,
}

impl Store {
    /// Removes artifacts, the least recently used first. What a process holds
    /// or the user pinned is never removed, nor a blob that a remaining
    /// artifact shares, nor one that an unreadable manifest mentions; so the
    /// store may stay larger than asked.
    pub fn prune(
        &self,
        options: &PruneOptions,
        observer: &mut Observer<'_>,
    ) -> Result<PruneReport, StoreError> {
        let writer =
            if options.dry_run { Writer::lock(self, observer)? } else { Writer::begin(self, observer)? };
        let mut candidates = Candidates::take(self, &BTreeSet::new())?;
        let criteria = Criteria {
            max_size: options.max_size,
            unused_since: options
                .older_than
                .map(|age| SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH)),
            keep: options.keep,
        };
        let doomed = choose(&candidates.all, &criteria);
        candidates.let_go_of_all_but(&doomed);
        if !options.dry_run {
            writer.remove_artifacts(&candidates, &doomed)?;
        }
        let kept = |hold| candidates.describe(&spared(&candidates, &criteria, hold));
        Ok(PruneReport {
            dry_run: options.dry_run,
            removed: candidates.describe(&doomed),
            kept_in_use: kept(Hold::InUse),
            kept_pinned: kept(Hold::Pinned),
            size_before: candidates.size_without(&[]),
            size_after: candidates.size_without(&doomed),
        })
    }
}

/// What would go as well if nothing of this kind were held.
fn spared(candidates: &Candidates, criteria: &Criteria, hold: Hold) -> Vec<Digest> {
    let mut all = candidates.all.clone();
    let held: BTreeSet<_> = all.iter().filter(|it| it.hold == hold).map(|it| it.digest).collect();
    for candidate in all.iter_mut().filter(|candidate| candidate.hold == hold) {
        candidate.hold = Hold::Free;
    }
    choose(&all, criteria).into_iter().filter(|digest| held.contains(digest)).collect()
}
