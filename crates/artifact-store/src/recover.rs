//! What a killed process left behind, and how it is finished or undone.
//!
//! Every change of the store has one moment at which it happens: a manifest
//! appears or goes. What comes before it leaves files that nothing mentions,
//! which are removed; what comes after it (the name, and the going of what made
//! room) is done again here.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    Digest, Store, StoreError,
    artifact::read_manifest,
    files::{exists, file_names, paths_in, read_regular},
    inventory::Inventory,
    layout::{evictions_in_waiting, name_in_waiting, name_of_file},
    writer::Writer,
};

/// Something that is put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepairAction {
    /// A name comes to stand for an artifact whose import was interrupted just before.
    FinishName {
        /// The name.
        name: String,
        /// The artifact.
        digest: Digest,
    },
    /// Artifacts go that had to make room for an import, which was interrupted just before.
    FinishEviction {
        /// Those that are still there.
        digests: Vec<Digest>,
    },
    /// A file or folder of interrupted work is removed.
    RemoveTemporary {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A name is removed: its artifact is not there, or its file can't be read.
    DropName {
        /// The name.
        name: String,
    },
    /// A pin is removed whose artifact is not there.
    DropPin {
        /// The artifact that was pinned.
        digest: Digest,
    },
    /// A blob that no artifact uses is removed.
    RemoveOrphan {
        /// The blob.
        blob: Digest,
        /// Its size.
        bytes: u64,
    },
    /// A quarantined blob is removed: it has been mended, or no artifact uses it any more.
    DropQuarantined {
        /// The blob.
        blob: Digest,
        /// Its size.
        bytes: u64,
    },
    /// A quarantined blob goes back to its place: it is what its name says after all.
    RestoreBlob {
        /// The blob.
        blob: Digest,
    },
    /// The index is made anew.
    RebuildIndex,
}

/// What the next writer does before anything else. Changes nothing itself.
pub(crate) fn plan(store: &Store) -> Result<Vec<RepairAction>, StoreError> {
    let (mut actions, mut evictions, mut temporary) = (Vec::new(), Vec::new(), Vec::new());
    for path in paths_in(&store.layout.tmp())? {
        if let Some((name, digest)) = waiting(store, &path) {
            actions.push(RepairAction::FinishName { name, digest });
            continue;
        }
        if let Some(digests) = evictions_left(store, &path) {
            evictions.push(RepairAction::FinishEviction { digests });
        }
        temporary.push(RepairAction::RemoveTemporary { bytes: size_of(&path), path });
    }
    // A name may have stood for what goes now.
    actions.extend(evictions);
    actions.extend(temporary);
    for file_name in file_names(&store.layout.refs())? {
        let name = name_of_file(&file_name);
        if let Ok(Some(digest)) = store.read_ref(&name)
            && !exists(&store.layout.manifest(digest))
        {
            actions.push(RepairAction::DropName { name });
        }
    }
    for digest in digests_below(&store.layout.pins())? {
        if !exists(&store.layout.manifest(digest)) {
            actions.push(RepairAction::DropPin { digest });
        }
    }
    // With a manifest that can't be read, nobody knows which blobs are its.
    if let Ok(inventory) = Inventory::read(store)
        && inventory.is_complete()
    {
        let mut needed: BTreeSet<Digest> = inventory.used().into_keys().collect();
        needed.extend(inventory.mentioned());
        needed.extend(store.held_blobs_now()?);
        actions.extend(unneeded_blobs(store, &needed)?);
    }
    Ok(actions)
}

/// Every blob in the store, with its path.
pub(crate) fn stored_blobs(store: &Store) -> Result<Vec<(Digest, PathBuf)>, StoreError> {
    let mut blobs = Vec::new();
    for shard in paths_in(&store.layout.blobs())? {
        if is_shard(&shard) {
            for digest in digests_below(&shard)? {
                blobs.push((digest, shard.join(digest.to_string())));
            }
        }
    }
    Ok(blobs)
}

/// Whether a path below `blobs/` is one of the folders that hold blobs. A link
/// could lead out of the store, and a file is nothing of ours.
pub(crate) fn is_shard(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 2
        && name.bytes().all(|byte| byte.is_ascii_hexdigit())
        && fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// The digests that the files of a folder are named by.
pub(crate) fn digests_below(folder: &Path) -> Result<Vec<Digest>, StoreError> {
    Ok(file_names(folder)?.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Bytes of a file, or of the files in a folder.
pub(crate) fn size_of(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            paths_in(path).unwrap_or_default().iter().map(|path| size_of(path)).sum()
        }
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    }
}

/// What stands in a file of `tmp/` that holds a name for a complete artifact.
fn waiting(store: &Store, path: &Path) -> Option<(String, Digest)> {
    let name = name_in_waiting(path.file_name()?.to_str()?)?;
    let digest = std::str::from_utf8(&read_regular(path).ok()?).ok()?.trim_end().parse().ok()?;
    matches!(read_manifest(&store.layout, digest), Ok(Some(_))).then_some((name, digest))
}

/// What still has to go for a complete artifact, if a file of `tmp/` says so.
fn evictions_left(store: &Store, path: &Path) -> Option<Vec<Digest>> {
    let imported = evictions_in_waiting(path.file_name()?.to_str()?)?;
    let text = String::from_utf8(read_regular(path).ok()?).ok()?;
    if !matches!(read_manifest(&store.layout, imported), Ok(Some(_))) {
        return None;
    }
    let digests: Vec<Digest> = text.lines().filter_map(|line| line.parse().ok()).collect();
    let left = digests.into_iter().filter(|digest| exists(&store.layout.manifest(*digest)));
    Some(left.collect()).filter(|left: &Vec<Digest>| !left.is_empty())
}

fn unneeded_blobs(store: &Store, needed: &BTreeSet<Digest>) -> Result<Vec<RepairAction>, StoreError> {
    let mut actions = Vec::new();
    for (blob, path) in stored_blobs(store)? {
        if !needed.contains(&blob) {
            actions.push(RepairAction::RemoveOrphan { blob, bytes: size_of(&path) });
        }
    }
    for blob in digests_below(&store.layout.quarantine())? {
        if !needed.contains(&blob) || exists(&store.layout.blob(blob)) {
            let bytes = size_of(&store.layout.quarantined(blob));
            actions.push(RepairAction::DropQuarantined { blob, bytes });
        }
    }
    Ok(actions)
}

impl Writer<'_> {
    /// Finishes or undoes what a killed process left. Nobody else can be
    /// using any of it: this is the only writer.
    pub(crate) fn recover(&self) -> Result<(), StoreError> {
        plan(self.store)?.iter().try_for_each(|action| self.carry_out(action))
    }

    pub(crate) fn carry_out(&self, action: &RepairAction) -> Result<(), StoreError> {
        let (store, layout) = (self.store, &self.store.layout);
        let removed = match action {
            RepairAction::FinishName { name, .. } => {
                return store.rename(&layout.waiting_name(name), &layout.reference(name));
            }
            RepairAction::RestoreBlob { blob } => {
                let _lock = store.lock_blobs()?;
                if exists(&layout.blob(*blob)) {
                    return Ok(());
                }
                return store.rename(&layout.quarantined(*blob), &layout.blob(*blob));
            }
            RepairAction::FinishEviction { digests } => return self.finish_evictions(digests),
            RepairAction::RebuildIndex => return self.rebuild_index(),
            RepairAction::RemoveTemporary { path, .. } => return store.remove_all(path),
            RepairAction::DropName { name } => store.remove_file(&layout.reference(name)),
            RepairAction::DropPin { digest } => store.remove_file(&layout.pin(*digest)),
            RepairAction::RemoveOrphan { blob, .. } => return self.remove_blob(*blob),
            RepairAction::DropQuarantined { blob, .. } => {
                let _lock = store.lock_blobs()?;
                // A verification may have set aside what was in its place.
                if !exists(&layout.blob(*blob)) && Inventory::read(store)?.used().contains_key(blob) {
                    return Ok(());
                }
                store.remove_file(&layout.quarantined(*blob))
            }
        };
        removed.map(drop)
    }
}
