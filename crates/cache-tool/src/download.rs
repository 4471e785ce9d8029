//! The folder of a download.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::Context;
use artifact_store::{BlobHold, Digest, ImportOptions, Store};

use crate::{
    hub::{self, Checksum, Hub, RemoteFile, Snapshot},
    output::say,
    progress::PullProgress,
};

const LOCK: &str = ".lock";

/// A folder of the store for one commit of one repository of one hub. It is outside of the store's `tmp`, which every
/// writer clears, so that a download can be resumed.
pub(crate) struct Download<'a> {
    store: &'a Store,
    hub: &'a Hub,
    snapshot: &'a Snapshot,
    path: PathBuf,
    /// What was fetched.
    files: BTreeSet<PathBuf>,
    /// Stored blobs that it links to; they stay until the import has them.
    hold: BlobHold,
    /// Held while it lives: two that append to one file would spoil it.
    _lock: File,
}

impl<'a> Download<'a> {
    pub(crate) fn begin(store: &'a Store, hub: &'a Hub, snapshot: &'a Snapshot) -> anyhow::Result<Self> {
        let path = store.downloads().join(folder_name(hub, snapshot));
        let create = || {
            let created = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            created.with_context(|| format!("cannot create {}", path.display()))
        };
        let lock = path.join(LOCK);
        let mut told = false;
        loop {
            create()?;
            let opened = match File::create(&lock) {
                // Another one removed the folder just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.with_context(|| format!("cannot create {}", lock.display()))?,
            };
            if opened.try_lock().is_err() {
                if !told {
                    say("waiting for another process that downloads the same");
                    told = true;
                }
                opened.lock().with_context(|| format!("cannot lock {}", lock.display()))?;
            }
            // The one that held it may have removed the folder, and a third one created it again.
            if is_at(&opened, &lock) {
                let hold = store.hold_blobs()?;
                return Ok(Self { store, hub, snapshot, path, files: BTreeSet::new(), hold, _lock: opened });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a file is put.
    pub(crate) fn place(&self, file: &RemoteFile) -> PathBuf {
        self.path.join(file.local())
    }

    pub(crate) fn fetch(&mut self, files: &[&RemoteFile], options: &ImportOptions) -> anyhow::Result<()> {
        for file in files {
            hub::settle(file, &self.path)?;
            self.link_stored(file)?;
        }
        self.check_room(files, options)?;
        let progress = PullProgress::new(total(files.iter().map(|file| file.size)))?;
        for file in files {
            progress.begin(file.name());
            hub::download(self.hub, self.snapshot, file, &self.path, &mut |bytes| progress.advance(bytes))?;
            self.files.insert(self.place(file));
        }
        progress.finish();
        Ok(())
    }

    /// Removes what else lies in the folder, which `import` would take for a part of the model.
    pub(crate) fn remove_others(&self) -> anyhow::Result<()> {
        self.remove_others_in(&self.path)
    }

    fn remove_others_in(&self, folder: &Path) -> anyhow::Result<()> {
        let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
            if self.files.contains(&path) || path.file_name().is_some_and(|name| name == LOCK) {
                continue;
            }
            if self.files.iter().any(|file| file.starts_with(&path)) {
                self.remove_others_in(&path)?;
            } else {
                hub::remove(&path)?;
            }
        }
        Ok(())
    }

    /// The import copies what was downloaded, except for blobs that the store has. What it makes of a file that it
    /// quantizes is smaller, by how much is not known yet.
    fn check_room(&self, files: &[&RemoteFile], options: &ImportOptions) -> anyhow::Result<()> {
        let downloaded = total(files.iter().map(|file| hub::missing(file, &self.path)));
        let new = files.iter().filter(|file| !self.place(file).is_symlink());
        let imported = if options.quantize.is_none() { total(new.map(|file| file.size)) } else { 0 };
        Ok(self.store.check_room(downloaded, imported)?)
    }

    /// A file that the store has, undamaged, need not be downloaded.
    fn link_stored(&mut self, file: &RemoteFile) -> anyhow::Result<()> {
        let (link, Some(checksum @ Checksum::Sha256(digest))) = (self.place(file), file.checksum) else {
            return Ok(());
        };
        if link.exists() {
            return Ok(());
        }
        let Some(blob) = self.hold.add(digest, file.size)? else { return Ok(()) };
        if !checksum.fits(&blob, file.size)? {
            return Ok(());
        }
        let blob = blob.canonicalize().with_context(|| format!("cannot find {}", blob.display()))?;
        symlink(blob, &link).with_context(|| format!("cannot create {}", link.display()))
    }

    pub(crate) fn remove(self) -> anyhow::Result<()> {
        fs::remove_dir_all(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))?;
        // Only if it is empty.
        let _ = fs::remove_dir(self.store.downloads());
        Ok(())
    }
}

/// Another hub can have other files of the same name and commit.
fn folder_name(hub: &Hub, snapshot: &Snapshot) -> String {
    let hub = Digest::of(hub.endpoint().as_bytes()).short();
    format!("{}@{}@{hub}", snapshot.repository.id.replace('/', "%2F"), snapshot.commit)
}

/// The largest number if it is larger: no disk has that much.
fn total(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

/// Whether a path still leads to an open file.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |found: fs::Metadata| (found.dev(), found.ino());
    file.metadata().is_ok_and(|open| path.metadata().is_ok_and(|there| identity(open) == identity(there)))
}
