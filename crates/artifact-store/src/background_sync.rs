//! Getting a large file to the disk while it is being written.
//!
//! A kernel keeps gigabytes of written bytes in memory before it starts to write them out, and a sync at the end then
//! waits for all of them. Syncing every now and then lets the disk work while the rest is read and hashed. Only the last
//! sync has to reach beyond the drive's own cache.

use std::{
    fs::{File, Permissions},
    io::{self, Write},
    sync::mpsc::{SyncSender, TrySendError, sync_channel},
    thread::{self, JoinHandle},
};

use tempfile::NamedTempFile;

use crate::fsync::{start_writing, sync_to_disk};

/// A file that a thread of its own syncs after each so many bytes.
pub(crate) struct BackgroundSync {
    file: NamedTempFile,
    stride: u64,
    unsynced: u64,
    syncer: Option<Syncer>,
}

struct Syncer {
    wake: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl BackgroundSync {
    pub(crate) fn new(file: NamedTempFile, stride: u64) -> Self {
        Self { file, stride, unsynced: 0, syncer: None }
    }

    pub(crate) fn set_permissions(&self, permissions: Permissions) -> io::Result<()> {
        self.file.as_file().set_permissions(permissions)
    }

    /// The file, with all of it on the disk.
    ///
    /// # Errors
    /// Whatever any of the syncs failed with: the system tells of a lost write only once.
    pub(crate) fn finish(mut self) -> io::Result<NamedTempFile> {
        let early = self.syncer.take().map_or(Ok(()), Syncer::join);
        early.and_then(|()| sync_to_disk(self.file.as_file())).map(|()| self.file)
    }

    fn wake(&mut self) -> io::Result<()> {
        let syncer = match &self.syncer {
            Some(syncer) => syncer,
            None => self.syncer.insert(Syncer::start(self.file.as_file().try_clone()?)?),
        };
        match syncer.wake.try_send(()) {
            // It is busy and has one more to do, which covers this one.
            Ok(()) | Err(TrySendError::Full(())) => Ok(()),
            // It has failed.
            Err(TrySendError::Disconnected(())) => self.syncer.take().map_or(Ok(()), Syncer::join),
        }
    }
}

impl Syncer {
    fn start(file: File) -> io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let work = move || woken.iter().try_for_each(|()| start_writing(&file));
        let thread = thread::Builder::new().name("sync".to_owned()).spawn(work)?;
        Ok(Self { wake, thread })
    }

    fn join(self) -> io::Result<()> {
        drop(self.wake);
        self.thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that syncs a file has panicked")))
    }
}

impl Write for BackgroundSync {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.unsynced += written as u64;
        if self.unsynced >= self.stride {
            self.unsynced = 0;
            self.wake()?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_in_the_file_whether_it_was_synced_or_not() {
        for stride in [1, 7, 1 << 20] {
            let mut file = BackgroundSync::new(NamedTempFile::new().unwrap(), stride);
            let parts: Vec<Vec<u8>> = (0..50_u8).map(|part| vec![part; usize::from(part)]).collect();
            parts.iter().for_each(|part| file.write_all(part).unwrap());
            let file = file.finish().unwrap();
            assert_eq!(std::fs::read(file.path()).unwrap(), parts.concat());
        }
    }

    #[test]
    fn a_sync_that_fails_is_told() {
        // A pipe can be written but not synced.
        let (_reader, writer) = io::pipe().unwrap();
        let syncer = Syncer::start(File::from(std::os::fd::OwnedFd::from(writer))).unwrap();
        syncer.wake.send(()).unwrap();
        assert!(syncer.join().is_err());
    }
}
