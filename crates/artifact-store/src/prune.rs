//! Making the store smaller: the least recently used artifacts go first.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    time::SystemTime,
};

use crate::{
    Digest, Listed, Store, StoreError, artifact::read_manifest, index::Index, lease::Lease, writer::Writer,
};

/// What [`Store::prune`] did, or would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PruneReport {
    /// Nothing was removed: this is what would be.
    pub dry_run: bool,
    /// Artifacts that went, the least recently used first.
    pub removed: Vec<Listed>,
    /// Artifacts that stayed only because a process is using them.
    pub kept_in_use: Vec<Listed>,
    /// Bytes of distinct blobs before.
    pub size_before: u64,
    /// Bytes of distinct blobs after.
    pub size_after: u64,
}

/// An artifact, as far as the decision needs it.
#[derive(Clone, Debug)]
struct Candidate {
    digest: Digest,
    last_use: SystemTime,
    in_use: bool,
    blobs: BTreeMap<Digest, u64>,
}

impl Store {
    /// Removes artifacts, the least recently used first, until the blobs have
    /// at most `max_size` bytes. What a process holds is never removed, nor a
    /// blob that a remaining artifact shares; so the store may stay larger.
    pub fn prune(&self, max_size: u64, dry_run: bool) -> Result<PruneReport, StoreError> {
        let silent = &mut |_| ControlFlow::Continue(());
        let writer = if dry_run { Writer::lock(self, silent)? } else { Writer::begin(self, silent)? };
        // Fails on a manifest that can't be read: its blobs might be taken for unused.
        writer.used_blobs()?;
        let listed = self.list()?;
        let mut candidates = Vec::new();
        // Held until the end: nobody can begin to use what is being removed.
        let mut holds = Vec::new();
        for artifact in &listed {
            let Some(manifest) = read_manifest(&self.layout, artifact.digest)? else { continue };
            let hold = Lease::take_exclusive(&self.layout, artifact.digest)?;
            candidates.push(Candidate {
                digest: artifact.digest,
                last_use: artifact.last_use,
                in_use: hold.is_none(),
                blobs: manifest.blobs(),
            });
            holds.extend(hold);
        }

        let doomed = choose(&candidates, max_size);
        let size_before = distinct_size(&candidates, &BTreeSet::new());
        let size_after = distinct_size(&candidates, &doomed.iter().copied().collect());
        if !dry_run {
            remove(&writer, self, &candidates, &doomed)?;
        }
        let find = |digest: &Digest| listed.iter().find(|artifact| artifact.digest == *digest).cloned();
        let in_use = candidates.iter().filter(|candidate| candidate.in_use && size_after > max_size);
        Ok(PruneReport {
            dry_run,
            removed: doomed.iter().filter_map(find).collect(),
            kept_in_use: in_use.filter_map(|candidate| find(&candidate.digest)).collect(),
            size_before,
            size_after,
        })
    }
}

/// Which artifacts go, in order. Pure.
fn choose(candidates: &[Candidate], max_size: u64) -> Vec<Digest> {
    let mut by_age: Vec<&Candidate> = candidates.iter().filter(|candidate| !candidate.in_use).collect();
    by_age.sort_by_key(|candidate| (candidate.last_use, candidate.digest));
    let busy = candidates.iter().filter(|candidate| candidate.in_use);
    let held: BTreeSet<&Digest> = busy.flat_map(|candidate| candidate.blobs.keys()).collect();

    let mut doomed = BTreeSet::new();
    let mut order = Vec::new();
    for candidate in by_age {
        if distinct_size(candidates, &doomed) <= max_size {
            break;
        }
        // Its going would free nothing, now or later.
        if candidate.blobs.keys().all(|blob| held.contains(blob)) {
            continue;
        }
        doomed.insert(candidate.digest);
        order.push(candidate.digest);
    }
    order
}

/// Bytes of the distinct blobs of all candidates but `without`.
fn distinct_size(candidates: &[Candidate], without: &BTreeSet<Digest>) -> u64 {
    let remaining = candidates.iter().filter(|candidate| !without.contains(&candidate.digest));
    let blobs: BTreeMap<_, _> = remaining.flat_map(|candidate| &candidate.blobs).collect();
    blobs.values().copied().sum()
}

/// Names, manifests, index, blobs, in this order: at no point does a name lead
/// to a manifest, or a manifest to a blob, that is gone.
fn remove(
    writer: &Writer<'_>,
    store: &Store,
    candidates: &[Candidate],
    doomed: &[Digest],
) -> Result<(), StoreError> {
    if doomed.is_empty() {
        return Ok(());
    }
    for (name, digest) in store.refs()? {
        if doomed.contains(&digest) {
            writer.remove(&store.layout.reference(&name))?;
        }
    }
    let mut index = Index::load(store)?;
    for &digest in doomed {
        writer.remove(&store.layout.manifest(digest))?;
        index.remove(digest);
    }
    writer.write_index(&mut index)?;

    let (going, staying): (Vec<_>, Vec<_>) =
        candidates.iter().partition(|candidate| doomed.contains(&candidate.digest));
    let used: BTreeSet<_> = staying.iter().flat_map(|candidate| candidate.blobs.keys()).collect();
    let unused: BTreeSet<_> = going
        .iter()
        .flat_map(|candidate| candidate.blobs.keys())
        .filter(|blob| !used.contains(blob))
        .collect();
    for &blob in unused {
        writer.remove(&store.layout.blob(blob))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn candidate(id: u8, last_use: u64, in_use: bool, blobs: &[(u8, u64)]) -> Candidate {
        Candidate {
            digest: Digest::of(&[id]),
            last_use: UNIX_EPOCH + Duration::from_secs(last_use),
            in_use,
            blobs: blobs.iter().map(|&(blob, size)| (Digest::of(&[100 + blob]), size)).collect(),
        }
    }

    fn chosen(candidates: &[Candidate], max_size: u64) -> Vec<usize> {
        let place = |digest| candidates.iter().position(|candidate| candidate.digest == digest);
        choose(candidates, max_size).into_iter().filter_map(place).collect()
    }

    #[test]
    fn the_least_recently_used_goes_first_and_no_more_than_needed() {
        let candidates = [
            candidate(0, 30, false, &[(0, 10)]),
            candidate(1, 10, false, &[(1, 10)]),
            candidate(2, 20, false, &[(2, 10)]),
        ];
        assert!(chosen(&candidates, 30).is_empty());
        assert_eq!(chosen(&candidates, 29), [1]);
        assert_eq!(chosen(&candidates, 10), [1, 2]);
        assert_eq!(chosen(&candidates, 0), [1, 2, 0]);
    }

    #[test]
    fn what_is_in_use_stays_and_so_does_what_would_free_nothing() {
        let candidates = [
            candidate(0, 10, true, &[(0, 10)]),
            candidate(1, 20, false, &[(0, 10)]),
            candidate(2, 30, false, &[(0, 10), (1, 5)]),
        ];
        assert_eq!(chosen(&candidates, 0), [2]);
    }

    #[test]
    fn shared_blobs_count_once_and_go_with_the_last_artifact() {
        let candidates = [candidate(0, 1, false, &[(0, 10), (1, 1)]), candidate(1, 2, false, &[(0, 10)])];
        assert_eq!(distinct_size(&candidates, &BTreeSet::new()), 11);
        assert_eq!(chosen(&candidates, 10), [0]);
        assert_eq!(chosen(&candidates, 9), [0, 1]);
    }
}
