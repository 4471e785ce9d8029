//! The one writer of a store: stages files under `tmp/`, then makes them permanent.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, BufWriter, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use tempfile::{NamedTempFile, TempPath};

use crate::{
    CommitStep, Digest, ImportEvent, Manifest, Observer, Store, StoreError,
    artifact::read_manifest,
    digest::HashingWriter,
    error::IoContext,
    index::Index,
    lease::Lease,
    observer::tell,
    store::{file_names, paths_in},
};

/// Stored files never change, and everyone may read them.
const STORED_MODE: u32 = 0o444;
/// Left free on the disk beyond what is written, in bytes.
const SPACE_MARGIN: u64 = 16 << 20;
const WRITE_BUFFER: usize = 1 << 20;

/// Holds `.lock` exclusively.
pub(crate) struct Writer<'a> {
    store: &'a Store,
    _lock: File,
}

/// Bytes that are in the store already, or wait under `tmp/`; dropped there,
/// they are gone.
pub(crate) struct Staged {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// `None`: the blob is already stored.
    temporary: Option<TempPath>,
}

/// What an import did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The name that now stands for the artifact.
    pub name: String,
    /// SHA-256 of its manifest.
    pub digest: Digest,
    /// Bytes of all its blobs.
    pub size: u64,
    /// Bytes of those that the store did not have before.
    pub new_bytes: u64,
    /// The very same artifact was stored already.
    pub already_stored: bool,
    /// What the name stood for until now, if that was something else.
    pub replaced: Option<Digest>,
}

impl<'a> Writer<'a> {
    /// Waits for the other writers to finish, then removes what a killed one
    /// left behind.
    pub(crate) fn begin(store: &'a Store, observer: &mut Observer<'_>) -> Result<Self, StoreError> {
        let writer = Self::lock(store, observer)?;
        writer.sweep()?;
        Ok(writer)
    }

    /// Like [`Writer::begin`], but changes nothing.
    pub(crate) fn lock(store: &'a Store, observer: &mut Observer<'_>) -> Result<Self, StoreError> {
        store.check_writable()?;
        let path = store.layout.lock();
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let lock = options.context("open", &path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                tell(observer, ImportEvent::WaitingForWriter)?;
                lock.lock().context("lock", &path)?;
            }
            Err(TryLockError::Error(source)) => return Err(source).context("lock", &path),
        }
        Ok(Self { store, _lock: lock })
    }

    /// Refuses early what would not fit on the disk.
    pub(crate) fn check_space(&self, bytes: u64) -> Result<(), StoreError> {
        let root = self.store.dir();
        let available = fs4::available_space(root).context("inspect the file system of", root)?;
        let needed = bytes.saturating_add(SPACE_MARGIN);
        if needed <= available {
            return Ok(());
        }
        Err(StoreError::NoSpace { path: root.to_owned(), needed, available })
    }

    /// Writes a file under `tmp/`, hashing it on the way, and syncs it.
    pub(crate) fn stage(
        &self,
        write: impl FnOnce(&mut dyn Write) -> Result<(), StoreError>,
    ) -> Result<Staged, StoreError> {
        let folder = self.store.layout.tmp();
        let file = NamedTempFile::new_in(&folder).context("create a file in", &folder)?;
        let path = file.path().to_owned();
        let mut writer = HashingWriter::new(BufWriter::with_capacity(WRITE_BUFFER, file));
        write(&mut writer)?;
        let (buffered, (digest, size)) = writer.finish();
        let file = buffered.into_inner().map_err(io::IntoInnerError::into_error).context("write", &path)?;
        file.as_file().set_permissions(Permissions::from_mode(STORED_MODE)).context("protect", &path)?;
        file.as_file().sync_all().context("sync", &path)?;
        Ok(Staged { digest, size, temporary: Some(file.into_temp_path()) })
    }

    /// Stages bytes that are in memory.
    pub(crate) fn stage_bytes(&self, bytes: &[u8]) -> Result<Staged, StoreError> {
        self.stage(|out| out.write_all(bytes).context("write to", &self.store.layout.tmp()))
    }

    /// A blob that needs no staging, if the store has it whole.
    pub(crate) fn stored(&self, digest: Digest, size: u64) -> Option<Staged> {
        self.has_blob(digest, size).then_some(Staged { digest, size, temporary: None })
    }

    /// Where the staged bytes can be read.
    pub(crate) fn staged_path(&self, staged: &Staged) -> PathBuf {
        match &staged.temporary {
            Some(path) => path.to_path_buf(),
            None => self.store.layout.blob(staged.digest),
        }
    }

    /// Distinct blobs that the stored artifacts use, with their sizes.
    pub(crate) fn used_blobs(&self) -> Result<BTreeMap<Digest, u64>, StoreError> {
        let mut used = BTreeMap::new();
        for digest in self.store.digests()? {
            if let Some(manifest) = read_manifest(&self.store.layout, digest)? {
                used.extend(manifest.blobs());
            }
        }
        Ok(used)
    }

    /// Makes an artifact permanent: blobs, manifest, index, name, in this order.
    pub(crate) fn commit(
        &self,
        manifest: &Manifest,
        files: Vec<Staged>,
        name: &str,
        observer: &mut Observer<'_>,
    ) -> Result<Imported, StoreError> {
        let committed = self.commit_steps(manifest, files, name, observer);
        if committed.is_err() {
            // The first error is the one to report; the next writer sweeps again.
            let _ = self.sweep();
        }
        committed
    }

    fn commit_steps(
        &self,
        manifest: &Manifest,
        files: Vec<Staged>,
        name: &str,
        observer: &mut Observer<'_>,
    ) -> Result<Imported, StoreError> {
        let layout = &self.store.layout;
        let mut new_bytes = 0;
        for file in files {
            tell(observer, ImportEvent::Committing(CommitStep::Blob))?;
            new_bytes += self.place_blob(file)?;
        }

        let bytes = manifest
            .canonical_bytes()
            .map_err(io::Error::from)
            .context("write a manifest to", &layout.artifacts())?;
        let digest = Digest::of(&bytes);
        let already_stored = matches!(read_manifest(layout, digest), Ok(Some(_)));
        let replaced = self.store.read_ref(name).ok().flatten().filter(|old| *old != digest);

        tell(observer, ImportEvent::Committing(CommitStep::Manifest))?;
        let now = SystemTime::now();
        Lease::take(layout, digest)?.touch(now, &layout.lease(digest))?;
        if !already_stored {
            self.replace(&layout.manifest(digest), &bytes)?;
        }
        tell(observer, ImportEvent::Committing(CommitStep::Index))?;
        let mut index = Index::load(self.store)?;
        if !already_stored {
            index.insert(digest, manifest, now);
        }
        self.write_index(&mut index)?;
        tell(observer, ImportEvent::Committing(CommitStep::Name))?;
        self.replace(&layout.reference(name), format!("{digest}\n").as_bytes())?;

        let size = manifest.size();
        Ok(Imported { name: name.to_owned(), digest, size, new_bytes, already_stored, replaced })
    }

    /// Replaces the index atomically.
    pub(crate) fn write_index(&self, index: &mut Index) -> Result<(), StoreError> {
        let bytes = index.refreshed_bytes(self.store)?;
        self.replace(&self.store.layout.index(), &bytes)
    }

    /// Removes a file and syncs its folder, so that the removal is permanent.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), StoreError> {
        match fs::remove_file(path) {
            Ok(()) => sync_folder_of(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).context("remove", path),
        }
    }

    /// Removes what is under `tmp/` and the blobs that no manifest mentions.
    /// Nobody else can be using either: this is the only writer.
    pub(crate) fn sweep(&self) -> Result<(), StoreError> {
        for path in paths_in(&self.store.layout.tmp())? {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.context("remove", &path)?;
        }
        // With a manifest that can't be read, nobody knows which blobs are its.
        let Ok(used) = self.used_blobs() else { return Ok(()) };
        for shard in paths_in(&self.store.layout.blobs())? {
            for file_name in file_names(&shard)? {
                let orphan = file_name.parse().is_ok_and(|digest: Digest| !used.contains_key(&digest));
                if orphan {
                    self.remove(&shard.join(file_name))?;
                }
            }
        }
        Ok(())
    }

    /// Moves a staged file to its blob; returns the bytes that this added.
    fn place_blob(&self, staged: Staged) -> Result<u64, StoreError> {
        let Some(temporary) = staged.temporary else { return Ok(0) };
        if self.has_blob(staged.digest, staged.size) {
            return Ok(0);
        }
        let path = self.store.layout.blob(staged.digest);
        let shard = folder_of(&path);
        if !shard.is_dir() {
            fs::create_dir_all(shard).context("create", shard)?;
            sync_folder_of(shard)?;
        }
        temporary.persist(&path).map_err(|error| error.error).context("move a file to", &path)?;
        sync_folder_of(&path)?;
        Ok(staged.size)
    }

    /// Writes a small file beside its place and renames it there.
    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let staged = self.stage_bytes(bytes)?;
        if let Some(temporary) = staged.temporary {
            temporary.persist(path).map_err(|error| error.error).context("move a file to", path)?;
        }
        sync_folder_of(path)
    }

    /// Reads the blob: to import a model again is how a damaged one is mended.
    fn has_blob(&self, digest: Digest, size: u64) -> bool {
        let Ok(mut file) = File::open(self.store.layout.blob(digest)) else { return false };
        let whole = file.metadata().is_ok_and(|found| found.len() == size);
        whole && Digest::of_reader(&mut file).is_ok_and(|(found, _)| found == digest)
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// A rename is permanent once its folder is synced.
fn sync_folder_of(path: &Path) -> Result<(), StoreError> {
    let folder = folder_of(path);
    File::open(folder).and_then(|file| file.sync_all()).context("sync", folder)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::ops::ControlFlow;

    use super::*;

    #[test]
    fn what_does_not_fit_on_the_disk_is_refused_early() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let writer = Writer::begin(&store, &mut |_| ControlFlow::Continue(())).unwrap();
        writer.check_space(1).unwrap();
        let error = writer.check_space(u64::MAX - 1).unwrap_err();
        assert!(
            matches!(error, StoreError::NoSpace { .. }) && error.to_string().contains("prune"),
            "{error}"
        );
    }
}
