//! Removing one artifact, or one of its names.

use std::collections::BTreeSet;

use crate::{
    ArtifactSummary, Observer, Store, StoreError,
    evict::{Candidates, Hold},
    lease::Lease,
    writer::Writer,
};

/// What [`Store::remove`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub names: Vec<String>,
    /// The artifact, if it went with its last name.
    pub artifact: Option<ArtifactSummary>,
    /// Names that keep the artifact.
    pub other_names: Vec<String>,
    /// Bytes of the blobs that went with it: those that nothing else uses.
    pub freed: u64,
}

impl Store {
    /// Removes a name, and with the last name of an artifact also the artifact
    /// and the blobs that nothing else uses. A digest stands for the artifact
    /// with all its names.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while a process uses the artifact, even when
    /// forced; [`StoreError::Pinned`] if it is pinned and this is not forced.
    pub fn remove(
        &self,
        name_or_digest: &str,
        force: bool,
        observer: &mut Observer<'_>,
    ) -> Result<Removed, StoreError> {
        let writer = Writer::begin(self, observer)?;
        let digest = self.locate(name_or_digest)?;
        let names = self.names_of(digest)?;
        let called = self.called(&names, name_or_digest)?;
        let other_names: Vec<String> = names.iter().filter(|name| Some(*name) != called).cloned().collect();
        if let Some(called) = called.filter(|_| !other_names.is_empty()) {
            self.remove_file(&self.layout.reference(called))?;
            let names = vec![called.clone()];
            return Ok(Removed { names, artifact: None, other_names, freed: 0 });
        }

        let mut candidates = Candidates::take(self, &BTreeSet::new())?;
        candidates.let_go_of_all_but(&[digest]);
        let candidate = candidates.all.iter().find(|candidate| candidate.digest == digest);
        let hold = candidate.map_or(Hold::Unknown, |candidate| candidate.hold);
        // One that can't be read may be mapped all the same.
        let unreadable = hold == Hold::Unknown;
        let lease = if unreadable { Lease::take_exclusive(&self.layout, digest)? } else { None };
        let artifact = name_or_digest.to_owned();
        if hold == Hold::InUse || (unreadable && lease.is_none()) {
            let holders = self.holders(digest)?.unwrap_or_default();
            return Err(StoreError::InUse { artifact, holders });
        }
        if self.is_pinned(digest) && !force {
            return Err(StoreError::Pinned { artifact });
        }
        let freed = candidates.size_without(&[]) - candidates.size_without(&[digest]);
        let listed = candidates.describe(&[digest]).pop();
        writer.remove_artifacts(&candidates, &[digest])?;
        Ok(Removed { names, artifact: listed, other_names: Vec::new(), freed })
    }

    /// Which of an artifact's names it was asked for by; `None`: by its digest. The file system may take names for the
    /// same that differ in case.
    fn called<'a>(&self, names: &'a [String], asked: &str) -> Result<Option<&'a String>, StoreError> {
        if self.read_ref(asked)?.is_none() {
            return Ok(None);
        }
        let exactly = names.iter().find(|name| *name == asked);
        Ok(exactly.or_else(|| names.iter().find(|name| name.eq_ignore_ascii_case(asked))))
    }
}
