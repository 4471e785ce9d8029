//! Where segments and sockets of one gateway live.
//!
//! ```text
//! <parent>/kr-mlx-<pid>-<n>/   only this user can enter it
//!          lock                locked for as long as its gateway lives
//!          3.sock  3.shm       of one life of a worker, until both sides hold them
//! ```
//!
//! A gateway that is killed leaves its folder behind. The operating system drops its lock, so the next gateway can tell,
//! and removes the folder.

use std::{
    env,
    fs::{self, DirEntry, File, Metadata, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    process,
};

/// A folder that only this user can enter; it and all in it are removed on drop.
#[derive(Debug)]
pub struct RuntimeDir {
    path: PathBuf,
    /// Its lock says that the folder is in use; closing it lets go.
    _lock: File,
}

/// Name of the file whose lock says that a folder is in use.
const LOCK: &str = "lock";

/// What all folders' names begin with.
const PREFIX: &str = "kr-mlx-";

impl RuntimeDir {
    /// Its path. Short, because a socket's path may not be longer than 104 bytes on some systems.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsRef<Path> for RuntimeDir {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and nothing depends on it.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Makes a new folder for this process, with mode 0700: in `XDG_RUNTIME_DIR`, else in `/dev/shm`, else in the
/// folder for temporary files. The first two are in memory; on a disk, the kernel may write the rings back now and then.
/// Folders beside it whose processes are dead are removed.
///
/// # Errors
/// If none of these can be written to; the last one's error, with its path.
pub fn runtime_dir() -> io::Result<RuntimeDir> {
    let parents =
        [env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from), Some("/dev/shm".into()), Some(env::temp_dir())];
    first_usable(parents.into_iter().flatten().filter(|parent| parent.is_absolute()))
}

fn first_usable(parents: impl Iterator<Item = PathBuf>) -> io::Result<RuntimeDir> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no folder for runtime files");
    for parent in parents {
        match create_in(&parent) {
            Ok(dir) => {
                sweep(&parent, &dir);
                return Ok(dir);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn create_in(parent: &Path) -> io::Result<RuntimeDir> {
    // Containers may share the parent and have equal process ids; dead processes may have left a folder.
    for attempt in 0..1000 {
        let path = parent.join(format!("{PREFIX}{}-{attempt}", process::id()));
        let failed = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(failed(error)),
        }
        // A sweep may have taken the folder for a dead one's in the moment before it was locked.
        match lock(&path) {
            Ok(Some(lock)) => return Ok(RuntimeDir { path, _lock: lock }),
            Ok(None) => {}
            Err(error) => {
                let _ = fs::remove_dir_all(&path);
                return Err(failed(error));
            }
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("{}: remove the {PREFIX}{}-* folders in it", parent.display(), process::id()),
    ))
}

/// Marks the new folder `dir` as used. `None`: it was swept meanwhile.
fn lock(dir: &Path) -> io::Result<Option<File>> {
    let path = dir.join(LOCK);
    let file = match File::create_new(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    file.lock()?;
    let held = file.metadata()?;
    let is_there = |found: Metadata| (found.dev(), found.ino()) == (held.dev(), held.ino());
    Ok(fs::metadata(&path).is_ok_and(is_there).then_some(file))
}

/// Removes what dead processes of this user left in `parent`. Nothing depends on it, so no error is one.
fn sweep(parent: &Path, own: &RuntimeDir) {
    let (Ok(own), Ok(entries)) = (fs::symlink_metadata(own), fs::read_dir(parent)) else { return };
    let ours = |entry: &DirEntry| {
        entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            // Not of the link's target: others can make links here.
            && entry.metadata().is_ok_and(|it| it.is_dir() && it.uid() == own.uid() && it.ino() != own.ino())
    };
    for entry in entries.flatten().filter(ours) {
        // Without a lock file it is a folder whose process is just making it.
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        match lock.try_lock() {
            Ok(()) => drop(fs::remove_dir_all(entry.path())),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn dir_in(parent: &Path) -> RuntimeDir {
        first_usable([parent.to_owned()].into_iter()).unwrap()
    }

    #[test]
    fn first_usable_parent_wins_and_the_folder_is_private_and_goes_away() {
        let parent = tempfile::tempdir().unwrap();
        let parents =
            [PathBuf::from("/nonexistent"), parent.path().to_owned(), PathBuf::from("/never/reached")];
        let one = first_usable(parents.clone().into_iter()).unwrap();
        let two = first_usable(parents.into_iter()).unwrap();
        assert_ne!(one.path(), two.path());
        assert_eq!(one.path().parent(), Some(parent.path()));
        assert_eq!(fs::metadata(&one).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(one.path().join("left"), b"behind").unwrap();
        drop((one, two));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_the_dead_left_is_swept_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let inside = |name: &str| parent.path().join(name);
        let living = dir_in(parent.path());
        // As a killed process leaves it: everything is there, and nobody holds the lock.
        let dead = inside("kr-mlx-1-0");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LOCK), b"").unwrap();
        fs::write(dead.join("3.shm"), b"ring").unwrap();
        let newborn = inside("kr-mlx-2-0");
        fs::create_dir(&newborn).unwrap();
        let foreign = inside("other");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join(LOCK), b"").unwrap();
        symlink(&foreign, inside("kr-mlx-3-0")).unwrap();

        let next = dir_in(parent.path());
        assert!(!dead.exists());
        assert!(living.path().exists() && next.path().exists());
        assert!(newborn.exists(), "its process may not have locked it yet");
        assert!(foreign.join(LOCK).exists() && inside("kr-mlx-3-0").is_symlink());
    }

    #[test]
    fn a_folder_that_is_swept_while_it_is_made_is_not_used() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("kr-mlx-1-0");
        assert!(lock(&path).unwrap().is_none(), "the folder is gone");
        fs::create_dir(&path).unwrap();
        assert!(lock(&path).unwrap().is_some());
    }

    #[test]
    fn failure_names_the_path() {
        let error = first_usable([PathBuf::from("/nonexistent")].into_iter()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/kr-mlx-"), "{error}");
    }
}
