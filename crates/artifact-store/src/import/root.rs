//! The folder that is imported, and what a name in it may lead to.
//!
//! A folder that somebody else made may have links in it: `git clone` and tar keep them. If they were followed anywhere,
//! a link named `chat_template.jinja` could publish a private file. So a link is followed within the folder, into `blobs/`
//! of the Hugging Face cache that the folder is a snapshot of, and into the blobs of the store itself (an unfinished
//! `pull` has such links), and nowhere else.

use std::{
    fs::{self, File},
    io,
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use super::source::{Snapshot, SourceFile};
use crate::{StoreError, error::IoContext, files::file_names};

/// Opens a folder on the way to a file. Where the platform can, without the right to list it.
#[cfg(target_os = "linux")]
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Opens the file itself; without waiting for the other end of a pipe.
const FILE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// A folder, and the files that were opened in it.
pub(super) struct Root {
    /// As the user wrote it, for errors.
    path: PathBuf,
    /// The same without links.
    real: PathBuf,
    /// Other folders into which links may lead, without links themselves.
    blobs: Vec<PathBuf>,
    /// What each file was when it was read.
    seen: Vec<(PathBuf, Snapshot)>,
}

impl Root {
    /// `store_blobs`: where the store keeps its blobs.
    pub(super) fn open(path: &Path, store_blobs: &Path) -> Result<Self, StoreError> {
        let real = path.canonicalize().context("read", path)?;
        let blobs = hub_blobs(&real).into_iter().chain(store_blobs.canonicalize().ok()).collect();
        Ok(Self { path: path.to_owned(), real, blobs, seen: Vec::new() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where `name` is, for errors.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Names of what is in a folder of it (`""`: itself), sorted. Without the files in which macOS keeps attributes on
    /// file systems that have no place for them: `._model.safetensors`.
    pub(super) fn names(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let mut names = file_names(&self.real.join(folder))?;
        names.retain(|name| !name.starts_with("._"));
        names.sort();
        Ok(names)
    }

    /// Opens a file.
    ///
    /// # Errors
    /// [`StoreError::BadSource`] if it is missing, if it is not a regular file, or if it is a link that leads out.
    pub(super) fn open_file(&self, name: &str) -> Result<SourceFile, StoreError> {
        let path = self.path_of(name);
        let real = match self.real.join(name).canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::bad_source(&path, "it is missing; download the model again"));
            }
            real => real.context("read", &path)?,
        };
        let is_file = fs::metadata(&real).context("read", &path)?.is_file();
        if is_file && !self.may_lead_to(&real) {
            let reason = format!(
                "it is a link to {}, which is outside of the folder and could be a private file; if it belongs to the \
                 model, put the file itself in place of the link",
                real.display()
            );
            return Err(StoreError::bad_source(&path, reason));
        }
        SourceFile::from_opened(&path, &real, open_real)
    }

    /// Reads a file of at most `limit` bytes.
    pub(super) fn read(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, StoreError> {
        let file = self.open_file(name)?;
        let bytes = file.read_all(limit)?;
        self.remember(&file);
        Ok(bytes)
    }

    /// The same for a file that may be missing.
    pub(super) fn read_optional(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        if fs::symlink_metadata(self.real.join(name)).is_err() {
            return Ok(None);
        }
        self.read(name, limit).map(Some)
    }

    /// An error later, if the file is not then what it is now.
    pub(super) fn remember(&mut self, file: &SourceFile) {
        self.seen.push((file.path().to_owned(), file.snapshot().clone()));
    }

    /// An error if a file is not what it was when it was read.
    pub(super) fn check_unchanged(&self) -> Result<(), StoreError> {
        self.seen.iter().try_for_each(|(path, then)| then.check(path))
    }

    /// The read permissions that all files have that were read.
    pub(super) fn readers(&self) -> u32 {
        self.seen.iter().fold(u32::MAX, |readers, (_, then)| readers & then.readers())
    }

    fn may_lead_to(&self, real: &Path) -> bool {
        real.starts_with(&self.real) || self.blobs.iter().any(|blobs| real.starts_with(blobs))
    }
}

/// `blobs/` of the cache that a folder is a snapshot of: `models--x--y/snapshots/<revision>`.
fn hub_blobs(real: &Path) -> Option<PathBuf> {
    let snapshots = real.ancestors().skip(1).find(|folder| folder.ends_with("snapshots"))?;
    // Without links itself, or it would lead anywhere.
    let blobs = snapshots.parent()?.join("blobs");
    blobs.canonicalize().ok().filter(|found| *found == blobs)
}

/// Opens a path that has no links, step by step: should one appear meanwhile, it is not followed.
fn open_real(path: &Path) -> io::Result<File> {
    let mut opened = rustix::fs::open("/", FOLDER, Mode::empty())?;
    let mut parts = path.components().filter(|part| matches!(part, Component::Normal(_))).peekable();
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_some() { FOLDER } else { FILE };
        opened = rustix::fs::openat(&opened, part.as_os_str(), flags, Mode::empty())?;
    }
    Ok(File::from(opened))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_that_appears_on_the_way_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        fs::write(root.join("real/file"), "x").unwrap();
        symlink("real", root.join("linked")).unwrap();
        symlink("file", root.join("real/link")).unwrap();
        assert!(open_real(&root.join("real/file")).is_ok());
        for way in ["linked/file", "real/link", "linked/link"] {
            assert!(open_real(&root.join(way)).is_err(), "{way}");
        }
    }

    #[test]
    fn the_cache_of_a_snapshot_is_beside_its_snapshots() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let snapshot = root.join("models--a--b/snapshots/1234");
        fs::create_dir_all(&snapshot).unwrap();
        assert_eq!(hub_blobs(&snapshot), None);
        fs::create_dir(root.join("elsewhere")).unwrap();
        symlink("../elsewhere", root.join("models--a--b/blobs")).unwrap();
        assert_eq!(hub_blobs(&snapshot), None, "it is a link");
        fs::remove_file(root.join("models--a--b/blobs")).unwrap();
        fs::create_dir(root.join("models--a--b/blobs")).unwrap();
        assert_eq!(hub_blobs(&snapshot), Some(root.join("models--a--b/blobs")));
        assert_eq!(hub_blobs(&root), None);
    }
}
