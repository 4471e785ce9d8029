//! The store: names to artifacts.

use std::{fs, io, path::Path, time::Duration};

use crate::{
    Digest, StoreError,
    disk::{FsOp, FsOpHook},
    error::IoContext,
    files::{exists, file_names, folder_of, read_regular},
    layout::{Layout, check_name, name_of_file},
    lock::DEFAULT_PATIENCE,
    private::{create_folder, tighten_store},
};

/// Fewest digits by which an artifact can be named.
const MIN_PREFIX: usize = 8;
/// Size to which imports keep a store unless they are told another, in bytes.
pub const DEFAULT_MAX_SIZE: u64 = 100 << 30;

/// A folder of artifacts. Any number of processes read it; one at a time writes.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) layout: Layout,
    /// Bytes; see [`Store::with_max_size`].
    pub(crate) max_size: u64,
    /// See [`Store::with_lock_timeout`].
    pub(crate) lock_patience: Duration,
    pub(crate) fs_op_hook: FsOpHook,
    read_only: bool,
}

impl Store {
    /// Opens the store in `dir`, creating its folders where they are missing. They are their owner's alone, and become
    /// so where they are ours and were not.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        let layout = Layout::new(dir.as_ref());
        let parent = folder_of(layout.root());
        if !parent.as_os_str().is_empty() {
            fs::create_dir_all(parent).context("create", parent)?;
        }
        for folder in layout.folders() {
            create_folder(&folder).context("create", &folder)?;
        }
        tighten_store(&layout);
        Ok(Self::new(layout, false))
    }

    /// Opens the store in `dir` without creating anything; writing is refused.
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        let layout = Layout::new(dir.as_ref());
        if !layout.artifacts().is_dir() {
            return Err(StoreError::NoStore(dir.as_ref().to_owned()));
        }
        tighten_store(&layout);
        Ok(Self::new(layout, true))
    }

    /// With another limit than [`DEFAULT_MAX_SIZE`]: importing keeps the
    /// blobs within `bytes` by removing what was used longest ago.
    #[must_use]
    pub fn with_max_size(self, bytes: u64) -> Self {
        Self { max_size: bytes, ..self }
    }

    /// With another limit than 30 seconds on waiting for a process that holds a lock and does not show that it works.
    /// Then [`StoreError::Locked`] says which one it is.
    #[must_use]
    pub fn with_lock_timeout(self, timeout: Duration) -> Self {
        Self { lock_patience: timeout, ..self }
    }

    /// With a hook that is called before every change on the disk. It is how
    /// tests look at what a crash would leave.
    #[must_use]
    pub fn with_fs_op_hook(self, hook: impl Fn(FsOp<'_>) + Send + Sync + 'static) -> Self {
        Self { fs_op_hook: FsOpHook::new(hook), ..self }
    }

    /// The folder of the store.
    pub fn dir(&self) -> &Path {
        self.layout.root()
    }

    /// The artifact that [`Store::resolve`] would open, without looking into
    /// it: works for one that is damaged, too.
    pub fn locate(&self, name_or_digest: &str) -> Result<Digest, StoreError> {
        let digest = match self.read_ref(name_or_digest)? {
            Some(digest) => Some(digest),
            None => self.find_digest(name_or_digest)?,
        };
        match digest {
            Some(digest) if exists(&self.layout.manifest(digest)) => Ok(digest),
            _ => Err(self.unknown(name_or_digest)?),
        }
    }

    /// Every name with the artifact it stands for, sorted. A name whose
    /// artifact is not there, or whose file can't be read, is left out.
    pub fn refs(&self) -> Result<Vec<(String, Digest)>, StoreError> {
        let mut refs = Vec::new();
        for file_name in file_names(&self.layout.refs())? {
            let name = name_of_file(&file_name);
            if let Ok(Some(digest)) = self.read_ref(&name)
                && exists(&self.layout.manifest(digest))
            {
                refs.push((name, digest));
            }
        }
        refs.sort();
        Ok(refs)
    }

    /// The names of one artifact, sorted.
    pub(crate) fn names_of(&self, digest: Digest) -> Result<Vec<String>, StoreError> {
        let refs = self.refs()?.into_iter();
        Ok(refs.filter(|(_, of)| *of == digest).map(|(name, _)| name).collect())
    }

    /// Every stored artifact, by digest, sorted.
    pub(crate) fn digests(&self) -> Result<Vec<Digest>, StoreError> {
        let names = file_names(&self.layout.artifacts())?;
        let digest = |name: &String| name.strip_suffix(".json")?.parse().ok();
        let mut digests: Vec<Digest> = names.iter().filter_map(digest).collect();
        digests.sort();
        Ok(digests)
    }

    pub(crate) fn check_writable(&self) -> Result<(), StoreError> {
        if self.read_only { Err(StoreError::ReadOnly(self.dir().to_owned())) } else { Ok(()) }
    }

    /// An error if another name differs from this one only in case: on a file system that takes both for the same, one
    /// would replace the other, and a copy of the store would lose one.
    ///
    /// # Errors
    /// [`StoreError::SimilarName`].
    pub fn check_case(&self, name: &str) -> Result<(), StoreError> {
        let stored = file_names(&self.layout.refs())?;
        let mut stored: Vec<String> = stored.iter().map(|file_name| name_of_file(file_name)).collect();
        stored.sort();
        let existing = stored.iter().find(|existing| existing.eq_ignore_ascii_case(name));
        match existing.filter(|_| !stored.iter().any(|existing| existing == name)) {
            Some(existing) if check_name(existing).is_ok() => {
                Err(StoreError::SimilarName { name: name.to_owned(), existing: existing.clone() })
            }
            _ => Ok(()),
        }
    }

    /// What `name` stands for; `None` if it is no name of this store.
    pub(crate) fn read_ref(&self, name: &str) -> Result<Option<Digest>, StoreError> {
        if check_name(name).is_err() {
            return Ok(None);
        }
        let path = self.layout.reference(name);
        match read_regular(&path) {
            Ok(bytes) => match String::from_utf8_lossy(&bytes).trim_end().parse() {
                Ok(digest) => Ok(Some(digest)),
                Err(error) => Err(StoreError::damaged(&path, error.to_string())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("read", &path),
        }
    }

    fn new(layout: Layout, read_only: bool) -> Self {
        let (max_size, lock_patience, fs_op_hook) = (DEFAULT_MAX_SIZE, DEFAULT_PATIENCE, FsOpHook::default());
        Self { layout, max_size, lock_patience, fs_op_hook, read_only }
    }

    /// The error for a name or digest that no artifact has.
    pub(crate) fn unknown(&self, name: &str) -> Result<StoreError, StoreError> {
        let known = self.refs()?.into_iter().map(|(name, _)| name).collect();
        Ok(StoreError::UnknownArtifact { name: name.to_owned(), store: self.dir().to_owned(), known })
    }

    fn find_digest(&self, text: &str) -> Result<Option<Digest>, StoreError> {
        let text = text.strip_prefix("sha256:").unwrap_or(text);
        if let Ok(digest) = text.parse() {
            return Ok(Some(digest));
        }
        if text.len() < MIN_PREFIX || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let digests = self.digests()?;
        let matches: Vec<_> = digests.iter().filter(|digest| digest.to_string().starts_with(text)).collect();
        match matches[..] {
            [] => Ok(None),
            [digest] => Ok(Some(*digest)),
            _ => Err(StoreError::AmbiguousDigest { prefix: text.to_owned(), count: matches.len() }),
        }
    }
}
