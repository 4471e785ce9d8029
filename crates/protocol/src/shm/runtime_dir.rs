//! Where segments and sockets of one gateway live.
//!
//! ```text
//! <parent>/kr-mlx-<pid>-<n>/   only this user can enter it
//!          lock                locked for as long as its gateway lives
//!          3.sock  3.shm       of one life of a worker, until both sides hold them
//! ```
//!
//! A gateway that is killed leaves its folder behind. The operating system drops its lock, so the next gateway can tell,
//! and removes the folder. Programs that clean up old files may remove the folder of a gateway that lives: it gets
//! another one when it needs it next.

use std::{
    env,
    ffi::OsString,
    fmt,
    fs::{self, DirEntry, File, Metadata, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    process,
    sync::{Mutex, MutexGuard, PoisonError},
};

#[cfg(target_os = "macos")]
mod darwin;

/// A folder that only this user can enter; it and all in it are removed on drop.
#[derive(Debug)]
pub struct RuntimeDir {
    parent: PathBuf,
    folder: Mutex<Folder>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Its lock says that the folder is in use; closing it lets go.
    lock: File,
}

/// None of the places for runtime files can be used.
#[derive(Debug, thiserror::Error)]
#[error("no folder for sockets and shared memory can be used ({})", tried.join("; "))]
pub struct NoRuntimeDir {
    /// Each of them, and what is wrong with it.
    tried: Vec<String>,
}

/// Where a runtime folder may be made.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    parent: PathBuf,
    /// Nobody else may have anything to do with it.
    private: bool,
}

/// Why a place is not used.
#[derive(Debug)]
enum Unusable {
    Relative,
    NotText,
    TooLong,
    NotAFolder,
    /// With its owner's id.
    Foreign(u32),
    /// With its mode.
    Open(u32),
    Io(io::Error),
    Full,
}

/// Name of the file whose lock says that a folder is in use.
const LOCK: &str = "lock";

/// What all folders' names begin with.
const PREFIX: &str = "kr-mlx-";

/// Folders of one process in one parent. Containers may share the parent and have equal process ids.
const ATTEMPTS: u32 = 1000;

/// Most bytes of a socket's path, without the zero at its end, on the systems that allow the fewest.
const MAX_SOCKET_PATH: usize = 103;

/// The longest that is appended to a parent's path.
const LONGEST_NAME: &str = "/kr-mlx-4294967295-999/4294967295.sock";

impl RuntimeDir {
    /// Its path, which is UTF-8, and short because a socket's path may not be longer than 104 bytes on some systems. If the
    /// folder has been removed, another one is made.
    ///
    /// # Errors
    /// If that fails.
    pub fn path(&self) -> io::Result<PathBuf> {
        let mut folder = self.folder();
        if !folder.is_there() {
            // Its lock file may be all that is gone.
            folder.remove();
            *folder = create_in(&self.parent).map_err(|error| io::Error::other(error.to_string()))?;
        }
        Ok(folder.path.clone())
    }

    fn folder(&self) -> MutexGuard<'_, Folder> {
        self.folder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        self.folder().remove();
    }
}

impl Folder {
    fn is_there(&self) -> bool {
        is_same(&self.path.join(LOCK), &self.lock)
    }

    fn remove(&self) {
        // Nothing can be done about a failure here, and nothing depends on it.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Makes a new folder for this process, with mode 0700: in `XDG_RUNTIME_DIR`; else on macOS in the user's own folder for
/// caches, on Linux in `/dev/shm`; else in the folder for temporary files, else in `/tmp`. `XDG_RUNTIME_DIR` and
/// `/dev/shm` are in memory; on a disk, the kernel may write the rings back now and then. A place is passed over if it
/// is not a folder, belongs to others or is open to them in a wrong way, is not UTF-8, or is too long for a socket's path.
/// Folders in the same place whose processes are dead are removed.
///
/// # Errors
/// If none of these can be used.
pub fn runtime_dir() -> Result<RuntimeDir, NoRuntimeDir> {
    first_usable(places(|name| env::var_os(name)))
}

fn places(variable: impl Fn(&str) -> Option<OsString>) -> Vec<Place> {
    let private = |parent: PathBuf| Place { parent, private: true };
    let shared = |parent: PathBuf| Place { parent, private: false };
    let named = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut places: Vec<_> = named("XDG_RUNTIME_DIR").map(private).into_iter().collect();
    #[cfg(target_os = "macos")]
    places.extend(darwin::user_cache_dir().map(private));
    #[cfg(not(target_os = "macos"))]
    places.push(shared("/dev/shm".into()));
    places.extend(named("TMPDIR").map(shared));
    places.push(shared("/tmp".into()));
    places
}

fn first_usable(places: Vec<Place>) -> Result<RuntimeDir, NoRuntimeDir> {
    let mut tried = Vec::new();
    for place in places {
        match place.check().and_then(|()| create_in(&place.parent)) {
            Ok(folder) => {
                sweep(&place.parent, &folder.path);
                return Ok(RuntimeDir { parent: place.parent, folder: Mutex::new(folder) });
            }
            Err(why) => tried.push(format!("{} {why}", place.parent.display())),
        }
    }
    Err(NoRuntimeDir { tried })
}

impl Place {
    /// Whether it is a place where a folder of ours stays ours.
    fn check(&self) -> Result<(), Unusable> {
        if !self.parent.is_absolute() {
            return Err(Unusable::Relative);
        }
        let Some(text) = self.parent.to_str() else { return Err(Unusable::NotText) };
        if text.len() + LONGEST_NAME.len() > MAX_SOCKET_PATH {
            return Err(Unusable::TooLong);
        }
        let parent = fs::metadata(&self.parent).map_err(Unusable::Io)?;
        if !parent.is_dir() {
            return Err(Unusable::NotAFolder);
        }
        if self.private && parent.uid() != rustix::process::geteuid().as_raw() {
            return Err(Unusable::Foreign(parent.uid()));
        }
        // Who may write into a folder may put another in the place of ours, unless the sticky bit forbids it.
        const STICKY: u32 = 0o1000;
        let wrong = if self.private { 0o077 } else { 0o022 };
        let guarded = !self.private && parent.mode() & STICKY != 0;
        if parent.mode() & wrong != 0 && !guarded {
            return Err(Unusable::Open(parent.mode() & 0o7777));
        }
        Ok(())
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relative => f.write_str("is not an absolute path"),
            Self::NotText => f.write_str("is not UTF-8"),
            Self::TooLong => f.write_str("is too long for a socket's path"),
            Self::NotAFolder => f.write_str("is not a folder"),
            Self::Foreign(uid) => write!(f, "belongs to the user {uid}"),
            Self::Open(mode) => write!(f, "is open to other users (its mode is {mode:o})"),
            Self::Io(error) => write!(f, "can't be used: {error}"),
            Self::Full => write!(f, "has {ATTEMPTS} folders {PREFIX}{}-* already", process::id()),
        }
    }
}

fn create_in(parent: &Path) -> Result<Folder, Unusable> {
    // Dead processes may have left a folder.
    for attempt in 0..ATTEMPTS {
        let path = parent.join(format!("{PREFIX}{}-{attempt}", process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(Unusable::Io(error)),
        }
        // A sweep may have taken the folder for a dead one's in the moment before it was locked.
        match lock(&path) {
            Ok(Some(lock)) => return Ok(Folder { path, lock }),
            Ok(None) => {}
            Err(error) => {
                let _ = fs::remove_dir_all(&path);
                return Err(Unusable::Io(error));
            }
        }
    }
    Err(Unusable::Full)
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
    Ok(is_same(&path, &file).then_some(file))
}

fn is_same(path: &Path, file: &File) -> bool {
    let id = |it: &Metadata| (it.dev(), it.ino());
    matches!((fs::metadata(path), file.metadata()), (Ok(found), Ok(held)) if id(&found) == id(&held))
}

/// Removes what dead processes of this user left in `parent`. Nothing depends on it, so no error is one.
fn sweep(parent: &Path, own: &Path) {
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
mod tests;
