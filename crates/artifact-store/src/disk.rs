//! Every change on the disk, one function a kind.
//!
//! Each tells the store's hook first, so that a test can end a process
//! between any two of them.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    path::Path,
    sync::Arc,
};

use crate::{
    Store, StoreError,
    error::IoContext,
    files::{exists, folder_of},
    fsync::{sync_folder, sync_to_disk},
    private::create_folder,
};

/// A change on the disk that is about to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsOp<'a> {
    /// What is going to be done, as a verb.
    pub action: &'static str,
    /// The file or folder that will have changed.
    pub path: &'a Path,
}

/// Who is told of each [`FsOp`]; nobody, unless [`Store::with_fs_op_hook`] was called.
#[derive(Clone, Default)]
pub(crate) struct FsOpHook(Option<Arc<Hook>>);

type Hook = dyn Fn(FsOp<'_>) + Send + Sync;

impl FsOpHook {
    pub(crate) fn new(hook: impl Fn(FsOp<'_>) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }
}

impl fmt::Debug for FsOpHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "FsOpHook(set)" } else { "FsOpHook(none)" })
    }
}

impl Store {
    /// Tells the hook what is about to happen.
    pub(crate) fn announce(&self, action: &'static str, path: &Path) {
        if let Some(hook) = &self.fs_op_hook.0 {
            hook(FsOp { action, path });
        }
    }

    /// Makes a folder whose parent exists, permanently.
    pub(crate) fn make_folder(&self, folder: &Path) -> Result<(), StoreError> {
        if folder.is_dir() {
            return Ok(());
        }
        self.announce("make", folder);
        create_folder(folder).context("create", folder)?;
        self.sync_folder_of(folder)
    }

    /// Moves a file within the store, permanently, in place of what is there.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.make_folder(folder_of(to))?;
        self.announce("move", to);
        fs::rename(from, to).context("move a file to", to)?;
        self.sync_folder_of(to)?;
        if folder_of(from) == folder_of(to) { Ok(()) } else { self.sync_folder_of(from) }
    }

    /// Removes a file, or a symbolic link, permanently; `false` if there was none.
    pub(crate) fn remove_file(&self, path: &Path) -> Result<bool, StoreError> {
        self.announce("remove", path);
        match fs::remove_file(path) {
            Ok(()) => self.sync_folder_of(path).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).context("remove", path),
        }
    }

    /// The same where most often there is none: nothing is told then.
    pub(crate) fn remove_file_if_there(&self, path: &Path) -> Result<(), StoreError> {
        if exists(path) { self.remove_file(path).map(drop) } else { Ok(()) }
    }

    /// Removes a folder of `tmp/` with what is in it, or a file.
    pub(crate) fn remove_all(&self, path: &Path) -> Result<(), StoreError> {
        if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
            self.announce("remove", path);
            return fs::remove_dir_all(path).context("remove", path);
        }
        self.remove_file(path).map(drop)
    }

    /// Makes an empty file, permanently; `false` if there is one already.
    pub(crate) fn create_empty(&self, path: &Path) -> Result<bool, StoreError> {
        self.make_folder(folder_of(path))?;
        self.announce("create", path);
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(file) => {
                sync_to_disk(&file).context("sync", path)?;
                self.sync_folder_of(path).map(|()| true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error).context("create", path),
        }
    }

    /// A rename is permanent once its folder is synced.
    fn sync_folder_of(&self, path: &Path) -> Result<(), StoreError> {
        let folder = folder_of(path);
        self.announce("sync", folder);
        File::open(folder).and_then(|file| sync_folder(&file)).context("sync", folder)
    }
}
