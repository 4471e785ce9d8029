//! The folder that has the files.

use std::{
    fs::{self, DirBuilder, File, FileTimes, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use tracing::{debug, warn};

use super::{
    key::Key,
    segment::{self, SegmentError},
};

/// Segments of this machine, of all models and workers.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    max_bytes: u64,
    /// Bytes of all files when they were last counted, and of those written since.
    used: AtomicU64,
    /// Files written since.
    written: AtomicU64,
}

/// A file of the folder.
struct Entry {
    modified: SystemTime,
    bytes: u64,
    path: PathBuf,
}

/// Others write here, too: after so many files, all of them are counted again.
const RECOUNT: u64 = 16;

/// What is left of a file that was being written this long ago has been given up.
const ABANDONED: Duration = Duration::from_secs(600);

impl Folder {
    pub(super) fn open(dir: &Path, max_bytes: u64) -> io::Result<Self> {
        // What is in it was computed from what people have written.
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let folder =
            Self { dir: dir.to_owned(), max_bytes, used: AtomicU64::new(0), written: AtomicU64::new(0) };
        folder.make_room(0)?;
        Ok(folder)
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.path(key).exists()
    }

    /// Keys and values of a segment, the `index`th of its sequence, if they are there. It counts as used now.
    pub(super) fn read(&self, key: &Key, index: usize, tokens: &[u32], kv_bytes: usize) -> Option<Vec<u8>> {
        let path = self.path(key);
        let mut file = File::open(&path).ok()?;
        match segment::read(key, tokens, kv_bytes, &mut file) {
            Ok(kv) => {
                set_used(&file, index);
                Some(kv)
            }
            Err(error) => {
                let cause =
                    if let SegmentError::Io(error) = &error { error.to_string() } else { String::new() };
                warn!(path = %path.display(), %error, cause, "a kept prefix is not used, and removed");
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Writes a segment's file, for which others have to go if there is no room. It is there at once and as a whole.
    pub(super) fn write(&self, key: &Key, index: usize, tokens: &[u32], kv: &[u8]) -> io::Result<()> {
        let bytes = segment::file_bytes(kv.len());
        if self.written.fetch_add(1, Ordering::Relaxed) >= RECOUNT || self.used() + bytes > self.max_bytes {
            self.make_room(bytes)?;
        }
        let temporary = self.dir.join(format!("{key}.{}.new", std::process::id()));
        let written = self.write_new(&temporary, key, tokens, kv).and_then(|file| {
            set_used(&file, index);
            fs::rename(&temporary, self.path(key))
        });
        match written {
            Ok(()) => self.used.fetch_add(bytes, Ordering::Relaxed),
            Err(_) => fs::remove_file(&temporary).map_or(0, |()| 0),
        };
        written
    }

    fn write_new(&self, path: &Path, key: &Key, tokens: &[u32], kv: &[u8]) -> io::Result<File> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        segment::write(key, tokens, kv, &mut file)?;
        Ok(file)
    }

    /// Bytes of all files, as far as is known: others write, too.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Counts all files, and removes those that were not used for longest until there is room for so many `bytes`.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut entries = self.entries()?;
        let mut used: u64 = entries.iter().map(|entry| entry.bytes).sum();
        entries.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.modified));
        while used + bytes > self.max_bytes
            && let Some(oldest) = entries.pop()
        {
            debug!(path = %oldest.path.display(), "a kept prefix makes room");
            // Another worker may have removed it.
            let _ = fs::remove_file(&oldest.path);
            used -= oldest.bytes;
        }
        self.used.store(used, Ordering::Relaxed);
        self.written.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            // Another worker may have removed it.
            let Ok(metadata) = entry.metadata() else { continue };
            let Ok(modified) = metadata.modified() else { continue };
            let path = entry.path();
            let is_new = path.extension().is_some_and(|extension| extension == "new");
            if is_new && modified.elapsed().is_ok_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(&path);
            } else if metadata.is_file() && !is_new {
                entries.push(Entry { modified, bytes: metadata.len(), path });
            }
        }
        Ok(entries)
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.dir.join(key.to_string())
    }
}

/// A segment is of no use without those before it, so that it seems to have been used a little earlier than these.
fn set_used(file: &File, index: usize) {
    let now = SystemTime::now();
    let used = now.checked_sub(Duration::from_millis(index as u64)).unwrap_or(now);
    // Only the order in which files go depends on it.
    let _ = file.set_times(FileTimes::new().set_modified(used));
}
