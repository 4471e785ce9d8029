//! The folders under `.mlx/`: made under a temporary name, renamed when complete.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// `.mlx/`, locked: one set-up at a time works in it.
pub(crate) struct Pieces {
    folder: PathBuf,
    used: RefCell<BTreeSet<String>>,
    /// Holds the lock until it is dropped; the system drops it if this program is killed.
    _lock: File,
}

impl Pieces {
    /// Locks `folder`, waiting for another set-up to finish if there is one.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(".lock");
        let lock = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                eprintln!("set-up: waiting for another set-up in {}", folder.display());
                lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        Ok(Self { folder: folder.to_path_buf(), used: RefCell::default(), _lock: lock })
    }

    /// The folder `<kind>-<key>`; if there is none, `fill` makes its content in an empty folder first.
    pub(crate) fn ensure(&self, kind: &str, key: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let name = format!("{kind}-{key}");
        let complete = self.folder.join(&name);
        self.used.borrow_mut().insert(name);
        if complete.is_dir() {
            return Ok(complete);
        }
        // Whatever stands under this name is of a set-up that was interrupted, since we hold the lock.
        let unfinished = self.folder.join(format!("tmp-{kind}"));
        remove(&unfinished)?;
        fs::create_dir(&unfinished).with_context(|| format!("cannot make {}", unfinished.display()))?;
        fill(&unfinished)?;
        fs::rename(&unfinished, &complete).with_context(|| format!("cannot make {}", complete.display()))?;
        Ok(complete)
    }

    /// Removes earlier versions of the pieces that were asked for, and what interruptions left.
    pub(crate) fn remove_unused(&self) -> Result<()> {
        let used = self.used.borrow();
        let kinds: BTreeSet<&str> = used.iter().filter_map(|name| kind(name)).collect();
        for entry in fs::read_dir(&self.folder).with_context(|| format!("cannot read {}", self.folder.display()))? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            let earlier = !used.contains(name) && kind(name).is_some_and(|kind| kinds.contains(kind));
            if earlier || name.starts_with("tmp-") {
                remove(&self.folder.join(name))?;
            }
        }
        Ok(())
    }
}

/// `mlxc` of `mlxc-0123456789ab`.
fn kind(name: &str) -> Option<&str> {
    name.rsplit_once('-').map(|(kind, _)| kind)
}

fn remove(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

/// The short hash that a piece's name carries, of everything it is made from.
pub(crate) fn key(inputs: &[&str]) -> String {
    let mut hash = Sha256::new();
    for input in inputs {
        // The length keeps ("ab", "c") apart from ("a", "bc").
        hash.update((input.len() as u64).to_le_bytes());
        hash.update(input);
    }
    hex::encode(&hash.finalize()[..6])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_when_the_same_text_is_divided_differently() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
    }

    #[test]
    fn a_kind_may_contain_dashes() {
        assert_eq!(kind("mlx-cpu-0123456789ab"), Some("mlx-cpu"));
        assert_eq!(kind("models"), None);
    }
}
