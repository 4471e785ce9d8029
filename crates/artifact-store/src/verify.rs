//! Verifying whole artifacts: every byte of every blob.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use crate::{
    Artifact, Digest, Store, StoreError,
    error::IoContext,
    files::exists,
    quarantine::{Bad, BlobDefect, check, set_aside},
};

/// Idle time of a yielding thread, in multiples of the time it worked.
const YIELDING_PAUSE: u32 = 3;
/// How often a blob is looked at again because an import replaced it meanwhile.
const MAX_LOOKS: usize = 3;

/// How hard a verification works, and what it does about a bad blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Threads that hash at once; one blob is hashed by one thread.
    pub jobs: NonZeroUsize,
    /// Move a blob that fails to `quarantine/`, where no load finds it. Who
    /// has it mapped keeps it. In a store that can't be written it stays where
    /// it is, and the result says so.
    pub quarantine: bool,
    /// Give way to everything else: lowest priority (on Linux), and busy for
    /// at most a quarter of the time.
    pub yielding: bool,
}

/// How a verification is getting on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerifyEvent {
    /// This many bytes are going to be read.
    Planned(u64),
    /// So many more of them are done.
    Advanced(u64),
}

/// Watches a verification, from several threads. [`ControlFlow::Break`] cancels it.
pub type VerifyObserver<'a> = dyn Fn(VerifyEvent) -> ControlFlow<()> + Sync + 'a;

/// The result for one artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// SHA-256 of its manifest.
    pub digest: Digest,
    /// The name or digest it was asked for by.
    pub name: String,
    /// How many blobs it has.
    pub blobs: usize,
    /// Bytes of these.
    pub bytes: u64,
    /// Those that are not what was stored.
    pub failed: Vec<FailedBlob>,
}

/// A blob that is not what was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedBlob {
    /// The digest it should have.
    pub blob: Digest,
    /// The files of the artifact whose content it is.
    pub files: Vec<String>,
    /// What is wrong.
    pub defect: BlobDefect,
    /// It is in quarantine.
    pub quarantined: bool,
    /// Where it is now, or should be.
    pub path: PathBuf,
}

/// A verification on a thread of its own. Dropping this cancels it.
#[derive(Debug)]
pub struct BackgroundVerify {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What became of one blob.
type Outcome = Option<(BlobDefect, bool)>;

impl VerifyOptions {
    /// As fast as the machine can.
    pub fn all_cores() -> Self {
        let jobs = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self { jobs, quarantine: true, yielding: false }
    }

    /// Beside other work.
    pub fn in_background() -> Self {
        Self { jobs: NonZeroUsize::MIN, quarantine: true, yielding: true }
    }
}

impl Verified {
    /// An error for the first bad blob, which says how to mend it.
    pub fn into_result(self) -> Result<(), StoreError> {
        let Some(failed) = self.failed.into_iter().next() else { return Ok(()) };
        if failed.quarantined {
            let file = failed.files.into_iter().next().unwrap_or_default();
            return Err(StoreError::Quarantined { artifact: self.name, file, path: failed.path });
        }
        Err(StoreError::damaged(&failed.path, failed.defect.to_string()))
    }
}

impl Store {
    /// Reads every blob of some artifacts, each blob once, and compares its
    /// SHA-256 with its name.
    ///
    /// # Errors
    /// [`StoreError::Cancelled`]. Bad blobs are no error but a result.
    pub fn verify(
        &self,
        artifacts: &[Artifact],
        options: &VerifyOptions,
        observer: &VerifyObserver<'_>,
    ) -> Result<Vec<Verified>, StoreError> {
        let blobs: BTreeMap<Digest, u64> =
            artifacts.iter().flat_map(|artifact| artifact.manifest.blobs()).collect();
        let outcomes = verify_blobs(self, blobs, options, observer)?;
        Ok(artifacts.iter().map(|artifact| artifact.verified(&outcomes)).collect())
    }
}

impl Artifact {
    /// Like [`Store::verify`], for this artifact alone.
    pub fn verify(
        &self,
        options: &VerifyOptions,
        observer: &VerifyObserver<'_>,
    ) -> Result<Verified, StoreError> {
        let outcomes = verify_blobs(&self.store, self.manifest.blobs(), options, observer)?;
        Ok(self.verified(&outcomes))
    }

    /// Verifies on a thread of its own, beside other work; it reads the files
    /// and leaves their mappings alone. `done` is called there with the result
    /// unless what is returned is dropped before.
    pub fn verify_in_background(
        &self,
        done: impl FnOnce(Result<Verified, StoreError>) + Send + 'static,
    ) -> Result<BackgroundVerify, StoreError> {
        let mut artifact = self.store.resolve(&self.digest.to_string())?;
        artifact.name.clone_from(&self.name);
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let work = move || {
            let observer = |_| {
                if asked.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            match artifact.verify(&VerifyOptions::in_background(), &observer) {
                Err(StoreError::Cancelled) => {}
                result => done(result),
            }
        };
        let thread = thread::Builder::new().name("verify".into()).spawn(work);
        Ok(BackgroundVerify {
            stop,
            thread: Some(thread.context("start a thread to verify", self.store.dir())?),
        })
    }

    fn verified(&self, outcomes: &BTreeMap<Digest, Outcome>) -> Verified {
        let blobs = self.manifest.blobs();
        let layout = &self.store.layout;
        let failed = blobs.keys().filter_map(|&blob| {
            let (defect, quarantined) = outcomes.get(&blob)?.clone()?;
            let files = self.manifest.files.iter().filter(|file| file.blob == blob);
            let files = files.map(|file| file.name.clone()).collect();
            let path = if quarantined { layout.quarantined(blob) } else { layout.blob(blob) };
            Some(FailedBlob { blob, files, defect, quarantined, path })
        });
        let (digest, name) = (self.digest, self.name.clone());
        Verified { digest, name, blobs: blobs.len(), bytes: blobs.values().sum(), failed: failed.collect() }
    }
}

impl Drop for BackgroundVerify {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // `done` may be what drops this.
        if let Some(thread) =
            self.thread.take().filter(|thread| thread.thread().id() != thread::current().id())
        {
            // A panic in it has been printed, and is no reason for another one.
            let _ = thread.join();
        }
    }
}

/// The largest first: so no thread is left alone with a large one at the end.
fn verify_blobs(
    store: &Store,
    blobs: BTreeMap<Digest, u64>,
    options: &VerifyOptions,
    observer: &VerifyObserver<'_>,
) -> Result<BTreeMap<Digest, Outcome>, StoreError> {
    let tell = |event| match observer(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(StoreError::Cancelled),
    };
    tell(VerifyEvent::Planned(blobs.values().sum()))?;
    let mut queue: Vec<(Digest, u64)> = blobs.into_iter().collect();
    queue.sort_by_key(|&(digest, size)| (std::cmp::Reverse(size), digest));
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        let mut pace = Pace::begin(options.yielding);
        while let Some(&(blob, size)) = queue.get(next.fetch_add(1, Ordering::Relaxed)) {
            let advanced = |bytes| {
                pace.pause();
                tell(VerifyEvent::Advanced(bytes))
            };
            done.push((blob, verify_blob(store, blob, size, options.quarantine, advanced)?));
        }
        Ok(done)
    };
    let results: Vec<Result<Vec<_>, StoreError>> = thread::scope(|scope| {
        let jobs = options.jobs.get().min(queue.len());
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    Ok(results.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

fn verify_blob(
    store: &Store,
    blob: Digest,
    size: u64,
    quarantine: bool,
    mut advanced: impl FnMut(u64) -> Result<(), StoreError>,
) -> Result<Outcome, StoreError> {
    let mut outcome = None;
    for _ in 0..MAX_LOOKS {
        let Bad { defect, seen } = match check(store, blob, size, &mut advanced)? {
            Ok(()) => return Ok(None),
            Err(bad) => bad,
        };
        let already = defect == BlobDefect::Missing && exists(&store.layout.quarantined(blob));
        // What can't be read is left alone: the disk may be at fault, not the blob.
        let Some(seen) = seen.filter(|_| quarantine) else { return Ok(Some((defect, already))) };
        match set_aside(store, blob, seen) {
            Ok(true) => return Ok(Some((defect, true))),
            Ok(false) => outcome = Some((defect, false)),
            // A store that can't be written is verified all the same.
            Err(_) => return Ok(Some((defect, false))),
        }
    }
    Ok(outcome)
}

/// How busy a thread is.
struct Pace {
    yielding: bool,
    since: Instant,
}

impl Pace {
    fn begin(yielding: bool) -> Self {
        #[cfg(target_os = "linux")]
        if yielding {
            // On Linux this is the calling thread's alone. Refused, the pauses still hold.
            let _ = rustix::process::setpriority_process(None, 19);
        }
        Self { yielding, since: Instant::now() }
    }

    /// Called after each piece of work.
    fn pause(&mut self) {
        if self.yielding {
            thread::sleep(self.since.elapsed() * YIELDING_PAUSE);
            self.since = Instant::now();
        }
    }
}
