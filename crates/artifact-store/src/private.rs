//! A store is its owner's alone: folders 0700, lock files 0600.
//!
//! Anyone who can open a lock file can lock it, and so keep everyone else waiting.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Gid, Uid, fchown},
    process::geteuid,
};

use crate::{
    files::{exists, folder_of, open_regular, paths_in},
    layout::Layout,
};

const FOLDER_MODE: u32 = 0o700;
const LOCK_MODE: u32 = 0o600;
/// What nobody but the owner may do.
const OTHERS: u32 = 0o077;

/// Makes a folder whose parent exists; it may be there already.
pub(crate) fn create_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Ok(()) => give_to_owner_of(folder_of(folder), &File::open(folder)?),
        Err(_) if folder.is_dir() => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Opens a lock file for reading and writing, and makes it if it is not there. A symbolic link could lead to a file
/// that is not a lock.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    let is_new = !exists(path);
    if !is_new {
        open_regular(path)?;
    }
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(LOCK_MODE).open(path)?;
    if is_new {
        give_to_owner_of(folder_of(path), &file);
    }
    tighten(&file, LOCK_MODE);
    Ok(file)
}

/// Takes from others, where it is ours, what a store of an earlier version allowed them. Where that can't be done, the
/// store is used as it is.
pub(crate) fn tighten_store(layout: &Layout) {
    // What is in these was made by the same version.
    let within = |folder: PathBuf| if is_open(&folder) { paths_in(&folder) } else { Ok(Vec::new()) };
    let (leases, shards) = (within(layout.leases()), within(layout.blobs()));
    let (leases, shards) = (leases.unwrap_or_default(), shards.unwrap_or_default());
    let is_folder = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let mut folders: Vec<PathBuf> = layout.all_folders().chain(shards).filter(is_folder).collect();
    // Somebody may have named a folder that is for other things too.
    if paths_in(layout.root()).is_ok_and(|paths| paths.iter().all(|path| layout.is_ours(path))) {
        folders.push(layout.root().to_owned());
    }
    for folder in folders {
        if let Ok(opened) = File::open(&folder) {
            tighten(&opened, FOLDER_MODE);
        }
    }
    for lock in leases.into_iter().chain([layout.lock(), layout.blob_lock()]) {
        // Most often it is not there.
        if let Ok(file) = open_regular(&lock) {
            tighten(&file, LOCK_MODE);
        }
    }
}

/// Only the owner may do this; where the file system refuses, as a read-only one does, it stays as it is.
fn tighten(file: &File, mode: u32) {
    if let Ok(metadata) = file.metadata()
        && metadata.uid() == geteuid().as_raw()
        && metadata.mode() & OTHERS != 0
    {
        let _ = file.set_permissions(Permissions::from_mode(mode));
    }
}

/// What the superuser makes in the store of another user is that user's, who could not open it otherwise.
pub(crate) fn give_to_owner_of(folder: &Path, file: &File) {
    if geteuid().is_root()
        && let Ok(owner) = fs::metadata(folder)
    {
        let _ = fchown(file, Some(Uid::from_raw(owner.uid())), Some(Gid::from_raw(owner.gid())));
    }
}

fn is_open(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.mode() & OTHERS != 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rustix::fs::chown;

    use super::*;

    #[test]
    fn what_the_superuser_adds_to_the_store_of_another_user_is_that_users() {
        if !geteuid().is_root() {
            // Nobody else can give files away.
            return;
        }
        let (dir, user) = (tempfile::tempdir().unwrap(), 12345);
        chown(dir.path(), Some(Uid::from_raw(user)), Some(Gid::from_raw(user))).unwrap();
        let (folder, lock) = (dir.path().join("folder"), dir.path().join("folder/lock"));
        create_folder(&folder).unwrap();
        drop(open_lock(&lock).unwrap());
        for path in [&folder, &lock] {
            let metadata = fs::metadata(path).unwrap();
            assert_eq!((metadata.uid(), metadata.mode() & OTHERS), (user, 0), "{}", path.display());
        }
        // Nor is anything of the user's changed.
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        tighten(&File::open(&folder).unwrap(), FOLDER_MODE);
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o755);
    }
}
