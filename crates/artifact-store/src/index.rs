//! `index.json`: what `list` and eviction need, without reading manifests.
//!
//! It is a copy of what the manifests and lease files say, so losing it costs
//! nothing but the time to read them.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{Digest, Manifest, Store, StoreError, artifact::read_manifest, error::IoContext};

/// Version of the file; another one counts as missing.
const FORMAT: u32 = 1;

/// One artifact, as [`Store::list`] shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// SHA-256 of its manifest.
    pub digest: Digest,
    /// The names that stand for it, sorted; may be none.
    pub names: Vec<String>,
    /// `model_type` of its configuration.
    pub architecture: Option<String>,
    /// Bytes of its blobs, including those it shares with others.
    pub size: u64,
    /// When it was imported.
    pub imported_at: SystemTime,
    /// When it was last loaded, or imported.
    pub last_use: SystemTime,
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
    size: u64,
    /// Seconds since 1970.
    imported_at: u64,
    /// Seconds since 1970, as of the last write; the lease file knows better.
    last_use: u64,
}

impl Store {
    /// Every artifact, the most recently used first.
    pub fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let refs = self.refs()?;
        let index = Index::load(self)?;
        let describe = |(digest, entry): (Digest, Entry)| {
            let names = refs.iter().filter(|(_, of)| *of == digest).map(|(name, _)| name.clone()).collect();
            Listed {
                digest,
                names,
                architecture: entry.architecture,
                size: entry.size,
                imported_at: at(entry.imported_at),
                last_use: modified(&self.layout.lease(digest)).unwrap_or(at(entry.last_use)),
            }
        };
        let mut listed: Vec<Listed> = index.artifacts.into_iter().map(describe).collect();
        listed.sort_by_key(|artifact| (std::cmp::Reverse(artifact.last_use), artifact.digest));
        Ok(listed)
    }
}

impl Index {
    /// The stored index, or one rebuilt from the manifests if it is missing,
    /// unreadable, or of another set of artifacts.
    pub(crate) fn load(store: &Store) -> Result<Self, StoreError> {
        let digests = store.digests()?;
        let stored = fs::read(store.layout.index()).ok();
        let parsed = stored.and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        match parsed {
            Some(index) if index.format == FORMAT && index.artifacts.keys().eq(&digests) => Ok(index),
            _ => Self::rebuild(store, &digests),
        }
    }

    /// Adds or replaces an artifact.
    pub(crate) fn insert(&mut self, digest: Digest, manifest: &Manifest, now: SystemTime) {
        self.artifacts.insert(digest, Entry::new(manifest, now, now));
    }

    /// Forgets an artifact.
    pub(crate) fn remove(&mut self, digest: Digest) {
        self.artifacts.remove(&digest);
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
    fn rebuild(store: &Store, digests: &[Digest]) -> Result<Self, StoreError> {
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
            size: manifest.size(),
            imported_at: seconds(imported_at),
            last_use: seconds(last_use),
        }
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
