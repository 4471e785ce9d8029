//! Putting a store right: everything that can be, and a list of what can't.

use std::path::PathBuf;

use crate::{
    Digest, Observer, RepairAction, Store, StoreError,
    error::with_causes,
    files::{exists, file_names, open_regular, paths_in},
    index::Index,
    inventory::Inventory,
    layout::{check_name, name_of_file},
    printable::shown,
    recover::{self, digests_below, is_shard},
    writer::Writer,
};

/// What [`Store::repair`] did, or would do, and what it leaves to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairReport {
    /// Nothing was changed: this is what would be.
    pub dry_run: bool,
    /// What was put right, in order.
    pub actions: Vec<RepairAction>,
    /// What remains; each says how to mend it.
    pub problems: Vec<Problem>,
}

/// Something that no program can put right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A manifest can't be used. Its names and blobs are kept.
    #[error("{reason}")]
    Manifest {
        /// The artifact.
        digest: Digest,
        /// The names that stand for it.
        names: Vec<String>,
        /// Why, and what to do.
        reason: String,
    },
    /// A file of an artifact is missing, or has the wrong size.
    #[error("{reason}")]
    File {
        /// The artifact.
        digest: Digest,
        /// The names that stand for it.
        names: Vec<String>,
        /// The file's name in the artifact.
        file: String,
        /// Why, and what to do.
        reason: String,
    },
    /// Something that no version of this program put there.
    #[error("the store did not create {}; it is left alone", shown(.0))]
    Foreign(PathBuf),
}

impl Store {
    /// Finishes or undoes interrupted work, removes what nothing uses, and
    /// makes the index anew. Blobs are looked at from outside only; reading
    /// them is [`Store::verify`]'s part.
    pub fn repair(&self, dry_run: bool, observer: &mut Observer<'_>) -> Result<RepairReport, StoreError> {
        let writer = Writer::lock(self, observer)?;
        let mut actions = recover::plan(self)?;
        actions.extend(unreadable_names(self)?);
        actions.extend(good_after_all(self, &actions)?);
        let inventory = Inventory::read(self)?;
        if !Index::is_current(self, &inventory) {
            actions.push(RepairAction::RebuildIndex);
        }
        if !dry_run {
            actions.iter().try_for_each(|action| writer.carry_out(action))?;
        }
        let problems = problems(self, &inventory, &actions)?;
        Ok(RepairReport { dry_run, actions, problems })
    }
}

/// Names whose files hold something else than a digest.
fn unreadable_names(store: &Store) -> Result<Vec<RepairAction>, StoreError> {
    let names = file_names(&store.layout.refs())?.into_iter().map(|file_name| name_of_file(&file_name));
    let damaged = names.filter(|name| store.read_ref(name).is_err());
    Ok(damaged.map(|name| RepairAction::DropName { name }).collect())
}

/// Quarantined blobs that are what their names say: a faulty memory or cable
/// may have been at work, and not the disk.
fn good_after_all(store: &Store, planned: &[RepairAction]) -> Result<Vec<RepairAction>, StoreError> {
    let mut actions = Vec::new();
    for blob in digests_below(&store.layout.quarantine())? {
        let dropped = |action: &RepairAction| matches!(action, RepairAction::DropQuarantined { blob: other, .. } if *other == blob);
        if planned.iter().any(dropped) || exists(&store.layout.blob(blob)) {
            continue;
        }
        let opened = open_regular(&store.layout.quarantined(blob));
        let read = opened.and_then(|mut file| Digest::of_reader(&mut file));
        if read.is_ok_and(|(found, _)| found == blob) {
            actions.push(RepairAction::RestoreBlob { blob });
        }
    }
    Ok(actions)
}

fn problems(
    store: &Store,
    inventory: &Inventory,
    actions: &[RepairAction],
) -> Result<Vec<Problem>, StoreError> {
    let mut problems = Vec::new();
    for unreadable in &inventory.unreadable {
        let (digest, names) = (unreadable.digest, store.names_of(unreadable.digest)?);
        problems.push(Problem::Manifest { digest, names, reason: with_causes(&unreadable.reason) });
    }
    for &digest in inventory.artifacts.keys() {
        let names = store.names_of(digest)?;
        let called = names.first().cloned().unwrap_or_else(|| digest.to_string());
        let Ok(artifact) = store.resolve(&called) else { continue };
        for file in &artifact.manifest.files {
            let restored = RepairAction::RestoreBlob { blob: file.blob };
            if let Err(error) = artifact.open_blob(file)
                && !actions.contains(&restored)
            {
                problems.push(Problem::File {
                    digest,
                    names: names.clone(),
                    file: file.name.clone(),
                    reason: with_causes(&error),
                });
            }
        }
    }
    problems.extend(foreign(store)?.into_iter().map(Problem::Foreign));
    Ok(problems)
}

/// Files whose names are none of the store's.
fn foreign(store: &Store) -> Result<Vec<PathBuf>, StoreError> {
    let layout = &store.layout;
    let mut found = Vec::new();
    let mut look = |folder: PathBuf, ours: &dyn Fn(&str) -> bool| -> Result<(), StoreError> {
        let others = file_names(&folder)?.into_iter().filter(|name| !ours(name));
        found.extend(others.map(|name| folder.join(name)));
        Ok(())
    };
    let is_digest = |name: &str| name.parse::<Digest>().is_ok();
    look(layout.artifacts(), &|name| name.strip_suffix(".json").is_some_and(is_digest))?;
    look(layout.refs(), &|name| check_name(&name_of_file(name)).is_ok())?;
    look(layout.pins(), &is_digest)?;
    look(layout.quarantine(), &is_digest)?;
    for path in paths_in(&layout.blobs())? {
        let shard = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if is_shard(&path) {
            look(path, &|name| is_digest(name) && name.starts_with(&shard))?;
        } else {
            look(layout.blobs(), &|name| name != shard)?;
        }
    }
    Ok(found)
}
