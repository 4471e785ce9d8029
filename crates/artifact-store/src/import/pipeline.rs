//! Work on several threads, results in order.

use std::{
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use crate::StoreError;

/// Results of a thread that wait to be taken.
const AHEAD: usize = 2;
/// More threads than this read and convert faster than one can hash and write.
const MAX_THREADS: usize = 8;

/// Does `work` on each job, on threads of its own, and hands the results to `consume`, in the jobs' order, on the
/// calling thread. At most a few results a thread exist at any time. The first error ends it.
pub(super) fn in_order<J: Sync, R: Send>(
    jobs: &[J],
    work: impl Fn(&J) -> Result<R, StoreError> + Sync,
    mut consume: impl FnMut(&J, R) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    // One less, as the calling thread works too.
    let cores = thread::available_parallelism().map_or(2, usize::from);
    let threads = (cores - 1).clamp(1, MAX_THREADS);
    thread::scope(|scope| {
        let mut results = Vec::with_capacity(threads);
        for first in 0..threads {
            let (send, receive) = sync_channel(AHEAD);
            let (work, own) = (&work, jobs.iter().skip(first).step_by(threads));
            scope.spawn(move || run(own, work, &send));
            results.push(receive);
        }
        for (job, receive) in jobs.iter().zip(results.iter().cycle()) {
            consume(job, take(receive)?)?;
        }
        Ok(())
    })
}

/// Ends early when nobody takes the results any more.
fn run<'a, J: 'a, R>(
    jobs: impl Iterator<Item = &'a J>,
    work: &impl Fn(&J) -> Result<R, StoreError>,
    send: &SyncSender<Result<R, StoreError>>,
) {
    for job in jobs {
        let result = work(job);
        let failed = result.is_err();
        if send.send(result).is_err() || failed {
            return;
        }
    }
}

fn take<R>(receive: &Receiver<Result<R, StoreError>>) -> Result<R, StoreError> {
    // A thread that is gone without a result has panicked; the scope passes that on.
    receive.recv().unwrap_or(Err(StoreError::Cancelled))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        path::Path,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[test]
    fn results_come_in_order() {
        let jobs: Vec<usize> = (0..1000).collect();
        let mut results = Vec::new();
        let square = |job: &usize| Ok(job * job);
        in_order(&jobs, square, |job, result| {
            results.push((*job, result));
            Ok(())
        })
        .unwrap();
        assert_eq!(results, jobs.iter().map(|job| (*job, job * job)).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_error_ends_it() {
        let jobs: Vec<usize> = (0..1000).collect();
        let error = || StoreError::bad_source(Path::new("x"), "bad");
        let (started, mut consumed) = (AtomicUsize::new(0), 0);
        let work = |job: &usize| {
            started.fetch_add(1, Ordering::Relaxed);
            if *job == 5 { Err(error()) } else { Ok(()) }
        };
        let failed = in_order(&jobs, work, |_, ()| {
            consumed += 1;
            Ok(())
        });
        assert!(failed.is_err() && consumed == 5);
        assert!(started.load(Ordering::Relaxed) < 100, "results that nobody takes are not made");
        assert!(in_order(&jobs, |_| Ok(()), |_, ()| Err(error())).is_err());
    }
}
