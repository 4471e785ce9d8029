//! Which artifacts go when there are too many, and their going.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use crate::{
    ArtifactSummary, Digest, Store, StoreError, inventory::Inventory, lease::Lease, recover::size_of,
    writer::Writer,
};

/// What may stand between an artifact and its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    Free,
    /// A process has a lease on it.
    InUse,
    Pinned,
    /// Its manifest can't be read, or it is just being imported.
    Unknown,
}

/// An artifact, as far as the decision needs it.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) digest: Digest,
    pub(crate) last_use: SystemTime,
    pub(crate) hold: Hold,
    pub(crate) blobs: BTreeMap<Digest, u64>,
}

/// Every artifact of a store. While it lives, nobody begins to use one that
/// was free (see [`Candidates::let_go_of_all_but`]).
pub(crate) struct Candidates {
    pub(crate) listed: Vec<ArtifactSummary>,
    pub(crate) all: Vec<Candidate>,
    leases: Vec<(Digest, Lease)>,
}

/// What is asked for; see [`crate::PruneOptions`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Criteria {
    pub(crate) max_size: Option<u64>,
    pub(crate) unused_since: Option<SystemTime>,
    pub(crate) keep: Option<usize>,
}

impl Candidates {
    /// `reused` are blobs that must stay although no manifest mentions them yet; so must those that a process holds.
    pub(crate) fn take(store: &Store, reused: &BTreeSet<Digest>) -> Result<Self, StoreError> {
        let mut inventory = Inventory::read(store)?;
        let listed = store.list()?;
        let mut all = Vec::new();
        let mut leases = Vec::new();
        for artifact in &listed {
            let Some(manifest) = inventory.artifacts.remove(&artifact.digest) else { continue };
            let lease = Lease::take_exclusive(&store.layout, artifact.digest)?;
            // Pins are made under a lease: only now it is certain that there is none.
            let hold = match &lease {
                None => Hold::InUse,
                Some(_) if store.is_pinned(artifact.digest) => Hold::Pinned,
                Some(_) => Hold::Free,
            };
            let (digest, last_use, blobs) = (artifact.digest, artifact.last_use, manifest.blobs());
            all.push(Candidate { digest, last_use, hold, blobs });
            leases.extend(lease.map(|lease| (digest, lease)));
        }
        let mut unknown = |digest, blobs: &BTreeSet<Digest>| {
            let sized = blobs.iter().map(|&blob| (blob, size_of(&store.layout.blob(blob))));
            let blobs = sized.collect();
            all.push(Candidate { digest, last_use: SystemTime::now(), hold: Hold::Unknown, blobs });
        };
        for unreadable in &inventory.unreadable {
            unknown(unreadable.digest, &unreadable.mentions);
        }
        unknown(Digest::of(b""), &(reused | &store.held_blobs_now()?));
        Ok(Self { listed, all, leases })
    }

    /// Adds an artifact that is just being imported. If it was stored before, it stays.
    pub(crate) fn add(&mut self, digest: Digest, blobs: BTreeMap<Digest, u64>) {
        for same in self.all.iter_mut().filter(|candidate| candidate.digest == digest) {
            same.hold = Hold::Unknown;
        }
        self.all.push(Candidate { digest, last_use: SystemTime::now(), hold: Hold::Unknown, blobs });
    }

    /// Lets others use all artifacts again but these.
    pub(crate) fn let_go_of_all_but(&mut self, doomed: &[Digest]) {
        self.leases.retain(|(digest, _)| doomed.contains(digest));
    }

    /// Bytes of the distinct blobs of all but `without`.
    pub(crate) fn size_without(&self, without: &[Digest]) -> u64 {
        distinct_size(&self.all, &without.iter().copied().collect())
    }

    /// As [`Store::list`] shows them.
    pub(crate) fn describe(&self, digests: &[Digest]) -> Vec<ArtifactSummary> {
        let find = |digest: &Digest| self.listed.iter().find(|artifact| artifact.digest == *digest).cloned();
        digests.iter().filter_map(find).collect()
    }
}

/// Which artifacts go, in order. Pure.
///
/// By age and number first; then the least recently used until the size is
/// reached, except those whose going frees nothing.
pub(crate) fn choose(candidates: &[Candidate], criteria: &Criteria) -> Vec<Digest> {
    let mut by_age: Vec<&Candidate> = candidates.iter().filter(|it| it.hold != Hold::Unknown).collect();
    by_age.sort_by_key(|candidate| (candidate.last_use, candidate.digest));
    by_age.truncate(by_age.len().saturating_sub(criteria.keep.unwrap_or(0)));
    by_age.retain(|candidate| candidate.hold == Hold::Free);

    let keep_only = criteria.keep.is_some() && criteria.max_size.is_none() && criteria.unused_since.is_none();
    let too_old = |candidate: &Candidate| criteria.unused_since.is_some_and(|time| candidate.last_use < time);
    let (asked, others): (Vec<&Candidate>, Vec<&Candidate>) =
        by_age.into_iter().partition(|candidate| keep_only || too_old(candidate));
    let mut order: Vec<Digest> = asked.iter().map(|candidate| candidate.digest).collect();
    if let Some(max_size) = criteria.max_size {
        order.extend(least_recent(candidates, &order, &others, max_size));
    }
    order
}

/// Those of `by_age` that go, besides `doomed`, to reach a size.
fn least_recent(
    candidates: &[Candidate],
    doomed: &[Digest],
    by_age: &[&Candidate],
    max_size: u64,
) -> Vec<Digest> {
    let mut without: BTreeSet<Digest> = doomed.iter().copied().collect();
    let mut order = Vec::new();
    for candidate in by_age {
        if distinct_size(candidates, &without) <= max_size {
            break;
        }
        without.insert(candidate.digest);
        order.push(candidate.digest);
    }
    // The latest first: it may be what keeps an earlier one's blobs.
    for digest in order.clone().into_iter().rev() {
        let size = distinct_size(candidates, &without);
        without.remove(&digest);
        if distinct_size(candidates, &without) == size {
            order.retain(|other| *other != digest);
        } else {
            without.insert(digest);
        }
    }
    order
}

fn distinct_size(candidates: &[Candidate], without: &BTreeSet<Digest>) -> u64 {
    let remaining = candidates.iter().filter(|candidate| !without.contains(&candidate.digest));
    let blobs: BTreeMap<_, _> = remaining.flat_map(|candidate| &candidate.blobs).collect();
    blobs.values().copied().sum()
}

impl Writer<'_> {
    /// Removes a blob, unless a process holds it; then a later recovery does.
    pub(crate) fn remove_blob(&self, blob: Digest) -> Result<(), StoreError> {
        let lock = self.store.lock_blobs()?;
        if self.store.held_blobs(&lock)?.contains(&blob) {
            return Ok(());
        }
        self.store.remove_file(&self.store.layout.blob(blob)).map(drop)
    }

    /// Removes artifacts. Each one's end is that of its manifest; its names,
    /// its pin and its blobs follow, by a recovery if need be. The index comes
    /// last: on a full disk it can be written only then.
    pub(crate) fn remove_artifacts(
        &self,
        candidates: &Candidates,
        doomed: &[Digest],
    ) -> Result<(), StoreError> {
        if doomed.is_empty() {
            return Ok(());
        }
        let (store, layout) = (self.store, &self.store.layout);
        let refs = store.refs()?;
        let (going, staying): (Vec<_>, Vec<_>) =
            candidates.all.iter().partition(|candidate| doomed.contains(&candidate.digest));
        let mut used: BTreeSet<Digest> = staying.iter().flat_map(|it| it.blobs.keys().copied()).collect();
        for digest in doomed {
            store.remove_file(&layout.manifest(*digest))?;
            for (name, _) in refs.iter().filter(|(_, of)| of == digest) {
                store.remove_file(&layout.reference(name))?;
            }
            if store.is_pinned(*digest) {
                store.remove_file(&layout.pin(*digest))?;
            }
        }
        for blob in going.iter().flat_map(|candidate| candidate.blobs.keys()) {
            if used.insert(*blob) {
                self.remove_blob(*blob)?;
            }
        }
        self.refresh_index(None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn candidate(id: u8, last_use: u64, hold: Hold, blobs: &[(u8, u64)]) -> Candidate {
        Candidate {
            digest: Digest::of(&[id]),
            last_use: UNIX_EPOCH + Duration::from_secs(last_use),
            hold,
            blobs: blobs.iter().map(|&(blob, size)| (Digest::of(&[100 + blob]), size)).collect(),
        }
    }

    fn chosen(candidates: &[Candidate], criteria: &Criteria) -> Vec<usize> {
        let place = |digest| candidates.iter().position(|candidate| candidate.digest == digest);
        choose(candidates, criteria).into_iter().filter_map(place).collect()
    }

    fn to_size(candidates: &[Candidate], max_size: u64) -> Vec<usize> {
        chosen(candidates, &Criteria { max_size: Some(max_size), ..Criteria::default() })
    }

    #[test]
    fn the_least_recently_used_goes_first_and_no_more_than_needed() {
        let candidates = [
            candidate(0, 30, Hold::Free, &[(0, 10)]),
            candidate(1, 10, Hold::Free, &[(1, 10)]),
            candidate(2, 20, Hold::Free, &[(2, 10)]),
        ];
        assert!(to_size(&candidates, 30).is_empty());
        assert_eq!(to_size(&candidates, 29), [1]);
        assert_eq!(to_size(&candidates, 10), [1, 2]);
        assert_eq!(to_size(&candidates, 0), [1, 2, 0]);
    }

    #[test]
    fn what_is_held_stays_and_so_does_what_would_free_nothing() {
        for hold in [Hold::InUse, Hold::Pinned, Hold::Unknown] {
            let candidates = [
                candidate(0, 10, hold, &[(0, 10)]),
                candidate(1, 20, Hold::Free, &[(0, 10)]),
                candidate(2, 30, Hold::Free, &[(0, 10), (1, 5)]),
            ];
            assert_eq!(to_size(&candidates, 0), [2]);
        }
    }

    #[test]
    fn an_old_artifact_stays_while_a_new_one_needs_its_blobs() {
        let candidates = [
            candidate(0, 10, Hold::Free, &[(0, 10)]),
            candidate(1, 20, Hold::Free, &[(1, 7)]),
            candidate(2, 30, Hold::Free, &[(0, 10)]),
        ];
        assert_eq!(to_size(&candidates, 10), [1], "the removal of 0 would free nothing");
        assert_eq!(to_size(&candidates, 9), [0, 1, 2]);
    }

    #[test]
    fn shared_blobs_count_once_and_go_with_the_last_artifact() {
        let candidates =
            [candidate(0, 1, Hold::Free, &[(0, 10), (1, 1)]), candidate(1, 2, Hold::Free, &[(0, 10)])];
        assert_eq!(distinct_size(&candidates, &BTreeSet::new()), 11);
        assert_eq!(to_size(&candidates, 10), [0]);
        assert_eq!(to_size(&candidates, 9), [0, 1]);
    }

    #[test]
    fn criteria_combine_as_documented() {
        let candidates = [
            candidate(0, 10, Hold::Free, &[(0, 10)]),
            candidate(1, 20, Hold::Pinned, &[(1, 10)]),
            candidate(2, 30, Hold::Free, &[(2, 10)]),
            candidate(3, 40, Hold::Free, &[(3, 10)]),
        ];
        let (max_size, unused_since) = (Some(15), Some(UNIX_EPOCH + Duration::from_secs(15)));
        let none = Criteria::default();
        assert!(chosen(&candidates, &none).is_empty());
        assert_eq!(chosen(&candidates, &Criteria { keep: Some(1), ..none }), [0, 2]);
        assert_eq!(chosen(&candidates, &Criteria { keep: Some(9), ..none }), [] as [usize; 0]);
        assert_eq!(chosen(&candidates, &Criteria { unused_since, ..none }), [0]);
        assert_eq!(chosen(&candidates, &Criteria { unused_since, max_size, ..none }), [0, 2, 3]);
        assert_eq!(chosen(&candidates, &Criteria { unused_since, max_size, keep: Some(1) }), [0, 2]);
        assert_eq!(chosen(&candidates, &Criteria { unused_since, keep: Some(4), ..none }), [] as [usize; 0]);
    }
}
