//! The folders under `.mlx/`: made under a temporary name, renamed when complete.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// How the names of folders begin that are being made.
const UNFINISHED: &str = "tmp-";

/// `.mlx/`, locked: one set-up at a time works in it.
pub(crate) struct Downloads {
    folder: PathBuf,
    used: RefCell<BTreeSet<String>>,
    /// Holds the lock until it is dropped; the system drops it if this program is killed.
    _lock: File,
}

impl Downloads {
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
        let downloads = Self { folder: folder.to_path_buf(), used: RefCell::default(), _lock: lock };
        // Nobody else works here, so what is unfinished was interrupted. If it cannot be removed, it does no harm.
        for name in downloads.names()?.iter().filter(|name| name.starts_with(UNFINISHED)) {
            let _ = fs::remove_dir_all(folder.join(name));
        }
        Ok(downloads)
    }

    /// The folder `<kind>-<key>`; if there is none, `fill` makes its content in an empty folder first.
    pub(crate) fn ensure(
        &self,
        kind: &str,
        key: &str,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let name = format!("{kind}-{key}");
        let complete = self.folder.join(&name);
        self.used.borrow_mut().insert(name);
        if complete.is_dir() {
            return Ok(complete);
        }
        // With the process in its name: compilers of a set-up that was killed may still be writing to an earlier one.
        let unfinished = self.folder.join(format!("{UNFINISHED}{kind}-{}", process::id()));
        fs::create_dir(&unfinished).with_context(|| format!("cannot make {}", unfinished.display()))?;
        fill(&unfinished)?;
        // What has its final name is never looked at again: all of it has to be on the disk before.
        sync(&unfinished).with_context(|| format!("cannot write {}", unfinished.display()))?;
        fs::rename(&unfinished, &complete).with_context(|| format!("cannot make {}", complete.display()))?;
        Ok(complete)
    }

    /// Removes earlier versions of the folders that were asked for.
    pub(crate) fn remove_unused(&self) -> Result<()> {
        let used = self.used.borrow();
        let kinds: BTreeSet<&str> = used.iter().filter_map(|name| kind(name)).collect();
        for name in self.names()? {
            if !used.contains(&name) && kind(&name).is_some_and(|kind| kinds.contains(kind)) {
                let earlier = self.folder.join(name);
                fs::remove_dir_all(&earlier)
                    .with_context(|| format!("cannot remove {}", earlier.display()))?;
            }
        }
        Ok(())
    }

    /// What stands in the folder.
    fn names(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = entries.with_context(|| format!("cannot read {}", self.folder.display()))?;
        Ok(entries.iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }
}

/// Writes every file and folder in `folder` through to the disk, and the folder itself.
fn sync(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync(&entry.path())?;
        } else if kind.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()
}

/// `mlxc` of `mlxc-0123456789ab`.
fn kind(name: &str) -> Option<&str> {
    name.rsplit_once('-').map(|(kind, _)| kind)
}

/// The short hash that a folder's name carries, of everything it is made from.
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
    fn an_interrupted_download_is_made_again_and_an_earlier_one_goes() {
        let folder = std::env::temp_dir().join(format!("xtask-downloads-{}", process::id()));
        fs::create_dir_all(folder.join("tmp-a-1")).unwrap();
        let ensure = |key: &str, fill: &dyn Fn(&Path) -> Result<()>| {
            let downloads = Downloads::open(&folder)?;
            downloads.ensure("a", key, fill)?;
            downloads.remove_unused()
        };
        assert!(ensure("1", &|_| anyhow::bail!("interrupted")).is_err());
        ensure("1", &|path| Ok(fs::write(path.join("first"), "")?)).unwrap();
        ensure("1", &|_| panic!("it is there already")).unwrap();
        ensure("2", &|path| Ok(fs::write(path.join("second"), "")?)).unwrap();
        let names = Downloads::open(&folder).unwrap().names().unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(names.iter().filter(|name| *name != ".lock").collect::<Vec<_>>(), ["a-2"]);
    }

    #[test]
    fn a_kind_may_contain_dashes() {
        assert_eq!(kind("mlx-cpu-0123456789ab"), Some("mlx-cpu"));
        assert_eq!(kind("models"), None);
    }
}
