//! How much room a store takes, and what of it is whose.

use std::collections::BTreeMap;

use crate::{
    ArtifactSummary, Digest, Store, StoreError,
    error::IoContext,
    inventory::Inventory,
    recover::{size_of, stored_blobs},
};

/// What [`Store::usage`] finds. All sizes are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Every artifact, the most recently used first.
    pub artifacts: Vec<ArtifactUsage>,
    /// The distinct blobs of all artifacts: what counts against the limit.
    pub total: u64,
    /// Of these, the blobs that several artifacts use, each counted once.
    pub shared: u64,
    /// Blobs that failed their verification, set aside.
    pub quarantined: u64,
    /// Downloads, temporary files and blobs without an artifact: work in
    /// progress, or interrupted. A download goes on when it is asked for
    /// again; the next command that writes removes the others.
    pub unfinished: u64,
    /// Size to which imports keep the store.
    pub limit: u64,
    /// Free on the disk.
    pub available: u64,
}

/// The room one artifact takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactUsage {
    /// The artifact.
    pub artifact: ArtifactSummary,
    /// Bytes of blobs that only this artifact uses: what its removal frees.
    pub unique: u64,
    /// Bytes of blobs that others use as well.
    pub shared: u64,
}

impl Store {
    /// Adds up what the store has.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let inventory = Inventory::read(self)?;
        let mut users: BTreeMap<Digest, (u64, usize)> = BTreeMap::new();
        for manifest in inventory.artifacts.values() {
            for (blob, size) in manifest.blobs() {
                users.entry(blob).or_insert((size, 0)).1 += 1;
            }
        }
        let is_shared = |blob: &Digest| users.get(blob).is_some_and(|(_, count)| *count > 1);
        let describe = |artifact: ArtifactSummary| {
            let blobs = inventory.artifacts.get(&artifact.digest).map(|manifest| manifest.blobs());
            let blobs = blobs.unwrap_or_default();
            let shared = blobs.iter().filter(|(blob, _)| is_shared(blob)).map(|(_, size)| size).sum();
            let unique = blobs.values().sum::<u64>() - shared;
            ArtifactUsage { artifact, unique, shared }
        };
        let mentioned = inventory.mentioned();
        let orphans = stored_blobs(self)?.into_iter();
        let orphans = orphans.filter(|(blob, _)| !users.contains_key(blob) && !mentioned.contains(blob));
        let orphaned: u64 = orphans.map(|(_, path)| size_of(&path)).sum();
        let shared = users.values().filter(|(_, count)| *count > 1).map(|(size, _)| size).sum();
        Ok(Usage {
            artifacts: self.list()?.into_iter().map(describe).collect(),
            total: users.values().map(|(size, _)| size).sum(),
            shared,
            quarantined: size_of(&self.layout.quarantine()),
            unfinished: orphaned + size_of(&self.layout.tmp()) + size_of(&self.downloads()),
            limit: self.max_size,
            available: fs4::available_space(self.dir()).context("inspect the file system of", self.dir())?,
        })
    }
}
