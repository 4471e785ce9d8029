//! Waiting for locks on files of the store, with a limit.

use std::{
    fs::{File, TryLockError},
    path::Path,
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use crate::{Store, StoreError, error::IoContext, holders::lock_holders, private::open_lock};

/// How long a lock is waited for unless the store is told another limit.
pub(crate) const DEFAULT_PATIENCE: Duration = Duration::from_secs(30);
/// How often a long holder shows that it is alive; well below any patience.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockKind {
    Shared,
    Exclusive,
}

/// Held while blobs are placed, set aside or removed, and while a hold on one is taken. All of these are short.
#[derive(Debug)]
pub(crate) struct BlobLock(#[expect(dead_code, reason = "closing it lets go")] File);

/// Keeps setting the time of a lock file, on a thread, so that those who wait for the lock see its holder working.
pub(crate) struct SignOfLife {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// When waiting has lasted too long. Pure.
struct Limit {
    patience: Duration,
    since: Instant,
    seen: Option<SystemTime>,
}

impl Store {
    /// Waits with a limit.
    pub(crate) fn lock_blobs(&self) -> Result<BlobLock, StoreError> {
        let path = self.layout.blob_lock();
        let file = open_lock(&path).context("open", &path)?;
        wait(&file, &path, LockKind::Exclusive, self.lock_patience)?;
        Ok(BlobLock(file))
    }
}

/// Takes the lock on an open file.
///
/// # Errors
/// [`StoreError::Locked`] if another process has held it for longer than `patience` without a sign of life.
pub(crate) fn wait(file: &File, path: &Path, kind: LockKind, patience: Duration) -> Result<(), StoreError> {
    let mut limit = Limit::new(patience, Instant::now());
    let mut pause = FIRST_PAUSE;
    while !try_lock(file, path, kind)? {
        let metadata = file.metadata().context("inspect", path)?;
        if limit.is_over(Instant::now(), metadata.modified().ok()) {
            let (path, seconds) = (path.to_owned(), patience.as_secs());
            return Err(StoreError::Locked { path, holders: lock_holders(&metadata), seconds });
        }
        thread::sleep(pause.min(patience));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Ok(())
}

/// `false`: somebody else holds it.
pub(crate) fn try_lock(file: &File, path: &Path, kind: LockKind) -> Result<bool, StoreError> {
    let locked = match kind {
        LockKind::Shared => file.try_lock_shared(),
        LockKind::Exclusive => file.try_lock(),
    };
    match locked {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(source)) => Err(source).context("lock", path),
    }
}

impl SignOfLife {
    pub(crate) fn start(path: &Path) -> Result<Self, StoreError> {
        // Opened again: a copy of the locked file would keep the lock.
        let file = open_lock(path).context("open", path)?;
        let (stop, stopped) = channel::<()>();
        let work = move || {
            while stopped.recv_timeout(SIGN_OF_LIFE) == Err(RecvTimeoutError::Timeout) {
                // Those who wait lose patience sooner; nothing else depends on it.
                let _ = file.set_modified(SystemTime::now());
            }
        };
        let thread = thread::Builder::new().name("sign of life".to_owned()).spawn(work);
        Ok(Self { stop: Some(stop), thread: Some(thread.context("start a thread beside", path)?) })
    }
}

impl Drop for SignOfLife {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}

impl Limit {
    fn new(patience: Duration, now: Instant) -> Self {
        Self { patience, since: now, seen: None }
    }

    /// `sign` is the time of the file, which a holder that works keeps changing.
    fn is_over(&mut self, now: Instant, sign: Option<SystemTime>) -> bool {
        if sign != self.seen {
            (self.seen, self.since) = (sign, now);
        }
        now.duration_since(self.since) >= self.patience
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn patience_ends_unless_the_holder_shows_that_it_works() {
        let (start, file_time) = (Instant::now(), SystemTime::UNIX_EPOCH);
        let after = |seconds| start + Duration::from_secs(seconds);
        let sign = |seconds| Some(file_time + Duration::from_secs(seconds));
        let mut limit = Limit::new(Duration::from_secs(30), start);
        assert!(!limit.is_over(after(0), sign(0)));
        assert!(!limit.is_over(after(29), sign(0)));
        assert!(!limit.is_over(after(31), sign(5)), "it worked meanwhile");
        assert!(!limit.is_over(after(60), sign(5)));
        assert!(limit.is_over(after(61), sign(5)));
    }

    #[test]
    fn a_lock_that_nobody_lets_go_is_an_error_that_names_the_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let (held, waiting) = (open_lock(&path).unwrap(), open_lock(&path).unwrap());
        held.lock().unwrap();
        for kind in [LockKind::Shared, LockKind::Exclusive] {
            let error = wait(&waiting, &path, kind, Duration::from_millis(5)).unwrap_err();
            let StoreError::Locked { holders, .. } = &error else { panic!("{error}") };
            let named = holders.iter().any(|holder| holder.pid == std::process::id());
            assert!(named || cfg!(not(target_os = "linux")), "{error}");
            assert!(error.to_string().contains("try again"), "{error}");
        }
        drop(held);
        wait(&waiting, &path, LockKind::Exclusive, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_writer_shows_signs_of_life_and_stops_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let locked = open_lock(&path).unwrap();
        locked.lock().unwrap();
        drop(SignOfLife::start(&path).unwrap());
        drop(locked);
        assert!(open_lock(&path).unwrap().try_lock().is_ok(), "the thread kept no lock");
    }
}
