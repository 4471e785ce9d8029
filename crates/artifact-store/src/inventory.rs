//! What all manifests together say: who uses which blob.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Digest, Manifest, Store, StoreError, artifact::read_manifest, files::read_regular};

/// Characters of a digest.
const DIGEST_LEN: usize = 64;

/// Every manifest of a store, as of one moment.
pub(crate) struct Inventory {
    pub(crate) artifacts: BTreeMap<Digest, Manifest>,
    pub(crate) unreadable: Vec<Unreadable>,
}

/// An artifact whose manifest can't be used. Its blobs are kept all the same.
pub(crate) struct Unreadable {
    pub(crate) digest: Digest,
    pub(crate) reason: StoreError,
    /// Every digest in its text.
    pub(crate) mentions: BTreeSet<Digest>,
}

impl Inventory {
    /// Reads all manifests.
    ///
    /// # Errors
    /// The operating system refuses to read one: then nobody knows which blobs
    /// it uses, and none may be removed.
    pub(crate) fn read(store: &Store) -> Result<Self, StoreError> {
        let mut inventory = Self { artifacts: BTreeMap::new(), unreadable: Vec::new() };
        for digest in store.digests()? {
            match read_manifest(&store.layout, digest) {
                Ok(Some(manifest)) => {
                    inventory.artifacts.insert(digest, manifest);
                }
                Ok(None) => {}
                Err(error @ StoreError::Io { .. }) => return Err(error),
                Err(reason) => {
                    let bytes = read_regular(&store.layout.manifest(digest)).unwrap_or_default();
                    inventory.unreadable.push(Unreadable { digest, reason, mentions: digests_in(&bytes) });
                }
            }
        }
        Ok(inventory)
    }

    /// The distinct blobs of the artifacts that can be read, with their sizes.
    pub(crate) fn used(&self) -> BTreeMap<Digest, u64> {
        self.artifacts.values().flat_map(Manifest::blobs).collect()
    }

    /// The blobs of the others, as far as their text tells.
    pub(crate) fn mentioned(&self) -> BTreeSet<Digest> {
        self.unreadable.iter().flat_map(|unreadable| unreadable.mentions.iter().copied()).collect()
    }

    /// Whether a blob that nothing mentions is certainly nobody's: a manifest
    /// of a newer format is whole, a damaged one may have lost a digest.
    pub(crate) fn is_complete(&self) -> bool {
        self.unreadable.iter().all(|it| matches!(it.reason, StoreError::NewerFormat { .. }))
    }
}

/// Every run of exactly 64 lower-case hex digits.
fn digests_in(bytes: &[u8]) -> BTreeSet<Digest> {
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let runs = bytes.split(|byte| !is_digit(byte)).filter(|run| run.len() == DIGEST_LEN);
    runs.filter_map(|run| std::str::from_utf8(run).ok()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_found_in_any_text() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let text = format!("{{\"blob\":\"{a}\",x{b}\0 {a}0 {}", &b.to_string()[1..]);
        assert_eq!(digests_in(text.as_bytes()), BTreeSet::from([a, b]));
    }
}
