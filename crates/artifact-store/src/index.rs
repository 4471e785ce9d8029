//! `index.json`: what `list` and eviction need, without reading manifests.
//!
//! It is a copy of what the manifests and lease files say, so losing it costs
//! nothing but the time to read them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    Digest, Manifest, Store, StoreError,
    artifact::read_manifest,
    error::IoContext,
    files::{exists, file_names, read_regular},
    inventory::Inventory,
};

/// Version of the file; another one counts as missing.
const FORMAT: u32 = 1;

/// One artifact, as [`Store::list`] shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactSummary {
    /// SHA-256 of its manifest.
    pub digest: Digest,
    /// The names that stand for it, sorted; may be none.
    pub names: Vec<String>,
    /// `model_type` of its configuration.
    pub architecture: Option<String>,
    /// Of an adapter the artifact that it adapts.
    pub base: Option<Digest>,
    /// Bytes of its blobs, including those it shares with others.
    pub size: u64,
    /// When it was imported.
    pub imported_at: SystemTime,
    /// When it was last loaded, or imported.
    pub last_use: SystemTime,
    /// The user wants it kept.
    pub pinned: bool,
    /// Whether it can be loaded.
    pub state: ArtifactState,
}

/// Whether an artifact can be loaded, as far as is known without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArtifactState {
    /// Nothing is known against it.
    Ready,
    /// A file failed its verification; importing the same source mends it.
    Quarantined,
    /// Its manifest is damaged, or of a newer version; loading it says which.
    Unreadable,
}

/// The file's content.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Index {
    format: u32,
    artifacts: BTreeMap<Digest, Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    architecture: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<Digest>,
    size: u64,
    /// Seconds since 1970.
    imported_at: u64,
    /// Seconds since 1970, as of the last write; the lease file knows better.
    last_use: u64,
}

impl fmt::Display for ArtifactState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Quarantined => "quarantined",
            Self::Unreadable => "unreadable",
        })
    }
}

impl Store {
    /// Every artifact, the most recently used first.
    pub fn list(&self) -> Result<Vec<ArtifactSummary>, StoreError> {
        let refs = self.refs()?;
        let mut artifacts = Index::load(self)?.artifacts;
        let quarantined = self.artifacts_in_quarantine()?;
        let mut listed: Vec<ArtifactSummary> = Vec::new();
        for digest in self.digests()? {
            let entry = artifacts.remove(&digest);
            let state = match &entry {
                None => ArtifactState::Unreadable,
                Some(_) if quarantined.contains(&digest) => ArtifactState::Quarantined,
                Some(_) => ArtifactState::Ready,
            };
            let entry = entry.unwrap_or_else(|| Entry::unreadable(self, digest));
            listed.push(ArtifactSummary {
                digest,
                names: refs.iter().filter(|(_, of)| *of == digest).map(|(name, _)| name.clone()).collect(),
                architecture: entry.architecture,
                base: entry.base,
                size: entry.size,
                imported_at: at(entry.imported_at),
                last_use: modified(&self.layout.lease(digest)).unwrap_or(at(entry.last_use)),
                pinned: self.is_pinned(digest),
                state,
            });
        }
        listed.sort_by_key(|artifact| (std::cmp::Reverse(artifact.last_use), artifact.digest));
        Ok(listed)
    }

    /// Manifests are read only when something is in quarantine.
    fn artifacts_in_quarantine(&self) -> Result<BTreeSet<Digest>, StoreError> {
        let bad: BTreeSet<Digest> =
            file_names(&self.layout.quarantine())?.iter().filter_map(|name| name.parse().ok()).collect();
        let mut artifacts = BTreeSet::new();
        if !bad.is_empty() {
            for (digest, manifest) in Inventory::read(self)?.artifacts {
                let lacks = |blob: &Digest| bad.contains(blob) && !exists(&self.layout.blob(*blob));
                if manifest.blobs().keys().any(lacks) {
                    artifacts.insert(digest);
                }
            }
        }
        Ok(artifacts)
    }
}

impl Index {
    /// The stored index, or one rebuilt from the manifests if it is missing,
    /// unreadable, or of another set of artifacts.
    pub(crate) fn load(store: &Store) -> Result<Self, StoreError> {
        let digests = store.digests()?;
        match Self::stored(store) {
            Some(index) if index.artifacts.keys().eq(&digests) => Ok(index),
            _ => Self::rebuild(store, &digests),
        }
    }

    /// The index as it is on the disk, if it can be read.
    fn stored(store: &Store) -> Option<Self> {
        let bytes = read_regular(&store.layout.index()).ok()?;
        serde_json::from_slice::<Self>(&bytes).ok().filter(|index| index.format == FORMAT)
    }

    /// Whether the stored index lists exactly the artifacts that can be read.
    pub(crate) fn is_current(store: &Store, inventory: &Inventory) -> bool {
        Self::stored(store).is_some_and(|index| index.artifacts.keys().eq(inventory.artifacts.keys()))
    }

    /// Adds or replaces an artifact.
    pub(crate) fn insert(&mut self, digest: Digest, manifest: &Manifest, now: SystemTime) {
        self.artifacts.insert(digest, Entry::new(manifest, now, now));
    }

    /// The bytes to store, after taking over the last uses that the lease files know.
    pub(crate) fn refreshed_bytes(&mut self, store: &Store) -> Result<Vec<u8>, StoreError> {
        self.format = FORMAT;
        for (digest, entry) in &mut self.artifacts {
            if let Some(time) = modified(&store.layout.lease(*digest)) {
                entry.last_use = seconds(time);
            }
        }
        serde_json::to_vec_pretty(self).map_err(std::io::Error::from).context("write", &store.layout.index())
    }

    /// A manifest that can't be read is left out; loading it says why.
    pub(crate) fn rebuild(store: &Store, digests: &[Digest]) -> Result<Self, StoreError> {
        let mut artifacts = BTreeMap::new();
        for &digest in digests {
            if let Ok(Some(manifest)) = read_manifest(&store.layout, digest) {
                let imported = modified(&store.layout.manifest(digest)).unwrap_or(UNIX_EPOCH);
                let used = modified(&store.layout.lease(digest)).unwrap_or(imported);
                artifacts.insert(digest, Entry::new(&manifest, imported, used));
            }
        }
        Ok(Self { format: FORMAT, artifacts })
    }
}

impl Entry {
    fn new(manifest: &Manifest, imported_at: SystemTime, last_use: SystemTime) -> Self {
        Self {
            architecture: manifest.architecture().map(str::to_owned),
            base: manifest.base,
            size: manifest.size(),
            imported_at: seconds(imported_at),
            last_use: seconds(last_use),
        }
    }

    /// What is known without the manifest.
    fn unreadable(store: &Store, digest: Digest) -> Self {
        let imported = seconds(modified(&store.layout.manifest(digest)).unwrap_or(UNIX_EPOCH));
        Self { architecture: None, base: None, size: 0, imported_at: imported, last_use: imported }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A number too large for the platform's clock (a damaged file) counts as 1970.
fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}
