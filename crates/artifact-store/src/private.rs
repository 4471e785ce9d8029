//! A store is its owner's alone: folders 0700, lock files 0600.
//!
//! Whoever can open a lock file can lock it, and so keep everybody else waiting.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::{
    fs::{Gid, Uid, fchown},
    process::geteuid,
};

use crate::{
    StoreError,
    disk::{exists, folder_of, open_regular},
    layout::Layout,
    store::paths_in,
};

const FOLDER_MODE: u32 = 0o700;
const LOCK_MODE: u32 = 0o600;
/// What nobody but the owner may do.
const OTHERS: u32 = 0o077;

/// Makes a folder whose parent exists; it may be there already.
pub(crate) fn create_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Ok(()) => give_to_owner_of(folder_of(folder), &File::open(folder)?),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
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

/// Takes from others, where it is ours, what a store of an earlier version allowed them.
pub(crate) fn tighten_store(layout: &Layout) -> Result<(), StoreError> {
    // Before the folders: until they are closed, somebody may add to them.
    let had_open_leases = is_open(&layout.leases());
    for folder in layout.all_folders() {
        if let Ok(opened) = File::open(&folder)
            && opened.metadata().is_ok_and(|metadata| metadata.is_dir())
        {
            tighten(&opened, FOLDER_MODE);
        }
    }
    let leases = if had_open_leases { paths_in(&layout.leases())? } else { Vec::new() };
    for lock in leases.into_iter().chain([layout.lock()]) {
        // Most often it is not there, or not ours.
        if let Ok(file) = open_regular(&lock) {
            tighten(&file, LOCK_MODE);
        }
    }
    Ok(())
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
fn give_to_owner_of(folder: &Path, file: &File) {
    if geteuid().is_root()
        && let Ok(owner) = fs::metadata(folder)
    {
        let _ = fchown(file, Some(Uid::from_raw(owner.uid())), Some(Gid::from_raw(owner.gid())));
    }
}

fn is_open(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.mode() & OTHERS != 0)
}
