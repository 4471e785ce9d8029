//! The one writer of a store: stages files under `tmp/`, then makes them permanent.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    fs::{File, Permissions},
    io::{self, BufWriter, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use tempfile::{NamedTempFile, TempPath};

use crate::{
    ArtifactSummary, Digest, ImportEvent, Manifest, Observer, Store, StoreError,
    artifact::read_manifest,
    background_sync::BackgroundSync,
    digest::HashingWriter,
    error::IoContext,
    files::{exists, open_regular},
    index::Index,
    lock::{LockKind, SignOfLife, try_lock, wait},
    observer::tell,
    private::{give_to_owner_of, open_lock},
    recover::{size_of, stored_blobs},
    room::Room,
};

/// Stored files never change, and everyone may read them, unless their source was private.
const STORED_MODE: u32 = 0o444;
/// The owner can always read them.
const OWNER_READS: u32 = 0o400;
const WRITE_BUFFER: usize = 1 << 20;
/// A disk writes so much in a tenth of a second or so.
const SYNC_STRIDE: u64 = 64 << 20;

/// Holds `.lock` exclusively.
pub(crate) struct Writer<'a> {
    pub(crate) store: &'a Store,
    /// Bytes that were announced by [`Writer::check_space`].
    pub(crate) announced: Cell<u64>,
    /// Stored blobs that what is being imported uses.
    pub(crate) reused: RefCell<BTreeSet<Digest>>,
    /// Who may read the manifest; see [`Writer::limit_readers`].
    readers: Cell<u32>,
    _sign_of_life: SignOfLife,
    _lock: File,
}

/// Bytes that are in the store already, or wait under `tmp/`; dropped there,
/// they are gone.
pub(crate) struct Staged {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// `None`: the blob is already stored.
    pub(crate) temporary: Option<TempPath>,
}

/// What is being committed.
struct NewArtifact<'a> {
    digest: Digest,
    /// Of the manifest.
    bytes: Vec<u8>,
    name: &'a str,
    /// What the name stands for now; `None` if that can't be read.
    before: Option<Option<Digest>>,
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
    /// What the name stood for until now, if that was something else and is still stored.
    pub replaced: Option<Digest>,
    /// Artifacts that were removed to keep the store within its limit.
    pub evicted: Vec<ArtifactSummary>,
    /// What is odd about the source and does not keep it from being imported.
    pub warnings: Vec<String>,
}

impl<'a> Writer<'a> {
    /// Waits for the other writers to finish, then removes what a killed one
    /// left behind.
    pub(crate) fn begin(store: &'a Store, observer: &mut Observer<'_>) -> Result<Self, StoreError> {
        let writer = Self::lock(store, observer)?;
        writer.recover()?;
        Ok(writer)
    }

    /// Like [`Writer::begin`], but changes nothing.
    pub(crate) fn lock(store: &'a Store, observer: &mut Observer<'_>) -> Result<Self, StoreError> {
        store.check_writable()?;
        let path = store.layout.lock();
        let lock = open_lock(&path).context("open", &path)?;
        if !try_lock(&lock, &path, LockKind::Exclusive)? {
            tell(observer, ImportEvent::WaitingForWriter)?;
            wait(&lock, &path, LockKind::Exclusive, store.lock_patience)?;
        }
        let sign_of_life = SignOfLife::start(&path)?;
        let (announced, reused) = Default::default();
        let readers = Cell::new(STORED_MODE);
        Ok(Self { store, announced, reused, readers, _sign_of_life: sign_of_life, _lock: lock })
    }

    /// Writes a file under `tmp/`, hashing it on the way, and syncs it.
    pub(crate) fn stage(
        &self,
        write: impl FnOnce(&mut dyn Write) -> Result<(), StoreError>,
    ) -> Result<Staged, StoreError> {
        self.stage_readable_by(STORED_MODE, write)
    }

    /// The manifest will contain what only these may read (permissions).
    pub(crate) fn limit_readers(&self, readers: u32) {
        self.readers.set(readers);
    }

    /// [`Writer::stage`] for what was made of a file with these read permissions: it gets no others.
    pub(crate) fn stage_readable_by(
        &self,
        readers: u32,
        write: impl FnOnce(&mut dyn Write) -> Result<(), StoreError>,
    ) -> Result<Staged, StoreError> {
        let folder = self.store.layout.tmp();
        self.store.announce("write a file in", &folder);
        let file = NamedTempFile::new_in(&folder).context("create a file in", &folder)?;
        give_to_owner_of(&folder, file.as_file());
        let path = file.path().to_owned();
        let file = BackgroundSync::new(file, SYNC_STRIDE);
        let mut writer = HashingWriter::new(BufWriter::with_capacity(WRITE_BUFFER, file));
        write(&mut writer)?;
        let (buffered, (digest, size)) = writer.finish();
        let file = buffered.into_inner().map_err(io::IntoInnerError::into_error).context("write", &path)?;
        let mode = STORED_MODE & readers | OWNER_READS;
        file.set_permissions(Permissions::from_mode(mode)).context("protect", &path)?;
        let file = file.finish().context("sync", &path)?;
        Ok(Staged { digest, size, temporary: Some(file.into_temp_path()) })
    }

    /// Stages bytes that are in memory.
    pub(crate) fn stage_bytes(&self, bytes: &[u8]) -> Result<Staged, StoreError> {
        self.stage(|out| out.write_all(bytes).context("write to", &self.store.layout.tmp()))
    }

    /// A blob that needs no staging, if the store has it whole.
    pub(crate) fn stored(&self, digest: Digest, size: u64) -> Option<Staged> {
        let stored = self.has_blob(digest, size);
        if stored {
            self.reused.borrow_mut().insert(digest);
        }
        stored.then_some(Staged { digest, size, temporary: None })
    }

    /// Where the staged bytes can be read.
    pub(crate) fn staged_path(&self, staged: &Staged) -> PathBuf {
        match &staged.temporary {
            Some(path) => path.to_path_buf(),
            None => self.store.layout.blob(staged.digest),
        }
    }

    /// Sizes of the blobs that the store has.
    pub(crate) fn stored_sizes(&self) -> Result<BTreeSet<u64>, StoreError> {
        Ok(stored_blobs(self.store)?.iter().map(|(_, path)| size_of(path)).collect())
    }

    /// Makes an artifact permanent: blobs, manifest, name, in this order; then what had to make room goes. On any error
    /// the store has what it had before.
    pub(crate) fn commit(
        &self,
        manifest: &Manifest,
        files: Vec<Staged>,
        name: &str,
    ) -> Result<Imported, StoreError> {
        let artifacts = self.store.layout.artifacts();
        let bytes =
            manifest.canonical_bytes().map_err(io::Error::from).context("write a manifest to", &artifacts)?;
        let digest = Digest::of(&bytes);
        let new = NewArtifact { digest, bytes, name, before: self.store.read_ref(name).ok() };
        let already_stored = matches!(read_manifest(&self.store.layout, digest), Ok(Some(_)));
        // This can take long. From here on, those who want to use what has to go wait.
        let files = files.into_iter().map(|file| self.without_copy(file)).collect::<Result<_, _>>()?;
        let room = self.plan_room(digest, manifest)?;
        let new_bytes = self.publish(&new, files, already_stored, &room).inspect_err(|_| {
            // The first error is the one to report. What can't be taken back now is finished by the next writer.
            let _ = self.unpublish(&new, already_stored).and_then(|()| self.recover());
        })?;

        // It is there. What comes now is finished by the next writer, if need be.
        let evicted = self.make_room(digest, room);
        self.refresh_index(Some((digest, manifest, SystemTime::now())));
        let is_stored = |old: &Digest| *old != digest && exists(&self.store.layout.manifest(*old));
        let replaced = new.before.flatten().filter(is_stored);
        let (name, size) = (name.to_owned(), manifest.size());
        Ok(Imported {
            name,
            digest,
            size,
            new_bytes,
            already_stored,
            replaced,
            evicted,
            warnings: Vec::new(),
        })
    }

    /// Everything up to the name; returns the bytes that it added.
    fn publish(
        &self,
        new: &NewArtifact<'_>,
        files: Vec<Staged>,
        already_stored: bool,
        room: &Room,
    ) -> Result<u64, StoreError> {
        let (store, layout) = (self.store, &self.store.layout);
        let (mut new_bytes, mut placed) = (0, BTreeSet::new());
        for file in files {
            // Two files of a source may be the same.
            if placed.insert(file.digest) {
                new_bytes += self.place_blob(file)?;
            }
        }
        store.lease(new.digest)?.touch(SystemTime::now(), &layout.lease(new.digest))?;
        // Should we be killed after the manifest is there, recovery finishes the name and the evictions.
        if !room.doomed.is_empty() {
            let lines: String = room.doomed.iter().map(|digest| format!("{digest}\n")).collect();
            self.replace(&layout.waiting_evictions(new.digest), lines.as_bytes())?;
        }
        self.replace(&layout.waiting_name(new.name), format!("{}\n", new.digest).as_bytes())?;
        if !already_stored {
            let staged = self.stage_readable_by(self.readers.get(), |out| {
                out.write_all(&new.bytes).context("write a manifest to", &layout.artifacts())
            })?;
            self.put(staged, &layout.manifest(new.digest))?;
        }
        store.rename(&layout.waiting_name(new.name), &layout.reference(new.name))?;
        Ok(new_bytes)
    }

    /// Takes back what [`Writer::publish`] has done, but for blobs, which recovery finds.
    fn unpublish(&self, new: &NewArtifact<'_>, already_stored: bool) -> Result<(), StoreError> {
        let (store, layout) = (self.store, &self.store.layout);
        // This first: whatever else fails, nothing goes for it.
        store.remove_file_if_there(&layout.waiting_evictions(new.digest))?;
        match new.before {
            Some(Some(old)) if store.read_ref(new.name).ok() != Some(Some(old)) => {
                self.replace(&layout.reference(new.name), format!("{old}\n").as_bytes())?;
            }
            Some(None) => store.remove_file_if_there(&layout.reference(new.name))?,
            _ => {}
        }
        if !already_stored {
            store.remove_file_if_there(&layout.manifest(new.digest))?;
        }
        store.remove_file_if_there(&layout.waiting_name(new.name))
    }

    /// Brings the index up to date after a change. It is a copy of what the
    /// manifests say: when it can't be written, reading it costs more.
    pub(crate) fn refresh_index(&self, added: Option<(Digest, &Manifest, SystemTime)>) {
        let _ = Index::load(self.store).and_then(|mut index| {
            if let Some((digest, manifest, now)) = added {
                index.insert(digest, manifest, now);
            }
            self.write_index(&mut index)
        });
    }

    /// Rebuilds the index from the manifests.
    pub(crate) fn rebuild_index(&self) -> Result<(), StoreError> {
        self.write_index(&mut Index::rebuild(self.store, &self.store.digests()?)?)
    }

    fn write_index(&self, index: &mut Index) -> Result<(), StoreError> {
        let bytes = index.refreshed_bytes(self.store)?;
        self.replace(&self.store.layout.index(), &bytes)
    }

    /// What is staged and stored already needs no second copy. What was found in the store has to be there still: a
    /// verification may have set it aside.
    fn without_copy(&self, staged: Staged) -> Result<Staged, StoreError> {
        let Staged { digest, size, temporary } = staged;
        if temporary.is_none() && self.store.stored_blob(digest, size).is_none() {
            let reason = "it was found damaged while it was about to be used again";
            return Err(StoreError::damaged(&self.store.layout.blob(digest), reason));
        }
        let temporary = temporary.filter(|_| !self.has_blob(digest, size));
        Ok(Staged { digest, size, temporary })
    }

    /// Moves a staged file to its blob; returns the bytes that this added.
    fn place_blob(&self, staged: Staged) -> Result<u64, StoreError> {
        let Some(temporary) = staged.temporary else { return Ok(0) };
        // A verification must not set aside what is just being placed.
        let _lock = self.store.lock_blobs()?;
        self.store.rename(&temporary, &self.store.layout.blob(staged.digest))?;
        let bad = self.store.layout.quarantined(staged.digest);
        if exists(&bad) {
            self.store.remove_file(&bad)?;
        }
        Ok(staged.size)
    }

    /// Writes a small file beside its place and renames it there.
    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        self.put(self.stage_bytes(bytes)?, path)
    }

    fn put(&self, staged: Staged, path: &Path) -> Result<(), StoreError> {
        match staged.temporary {
            Some(temporary) => self.store.rename(&temporary, path),
            None => Ok(()),
        }
    }

    /// Reads the blob: to import a model again is how a damaged one is mended.
    fn has_blob(&self, digest: Digest, size: u64) -> bool {
        let Ok(mut file) = open_regular(&self.store.layout.blob(digest)) else { return false };
        let whole = file.metadata().is_ok_and(|found| found.len() == size);
        whole && Digest::of_reader(&mut file).is_ok_and(|(found, _)| found == digest)
    }
}
