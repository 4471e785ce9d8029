//! How many files and sockets the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// The most that macOS accepts without changing a system setting; more than this gateway needs.
const WANTED: u64 = 10_240;

/// For the workers' sockets and segments, the log and the runtime.
const RESERVED: u64 = 128;

/// Raises the soft limit of descriptors (256 on macOS) and returns how many connections fit.
pub(super) fn raise_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = wanted(limit);
    if limit.current.is_some_and(|current| current < wanted) {
        match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }) {
            Ok(()) => info!(descriptors = wanted, "raised the limit of open files"),
            Err(error) => warn!(%error, "the limit of open files can't be raised"),
        }
    }
    connections(getrlimit(Resource::Nofile).current)
}

/// The soft limit to ask for. One that is higher already stays.
fn wanted(limit: Rlimit) -> u64 {
    let most = limit.maximum.map_or(WANTED, |hard| hard.min(WANTED));
    limit.current.map_or(u64::MAX, |soft| soft.max(most))
}

/// Connections that fit into `descriptors`; `None` is no limit.
fn connections(descriptors: Option<u64>) -> usize {
    let descriptors = descriptors.unwrap_or(WANTED);
    let reserved = RESERVED.min(descriptors / 2);
    usize::try_from(descriptors - reserved).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_within_what_is_allowed_and_never_lowered() {
        let limit = |soft, hard| Rlimit { current: soft, maximum: hard };
        assert_eq!(wanted(limit(Some(256), None)), 10_240);
        assert_eq!(wanted(limit(Some(256), Some(4096))), 4096);
        assert_eq!(wanted(limit(Some(1024), Some(1 << 20))), 10_240);
        assert_eq!(wanted(limit(Some(65_536), Some(1 << 20))), 65_536);
        assert_eq!(wanted(limit(None, None)), u64::MAX);
    }

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        assert_eq!(connections(Some(256)), 128);
        assert_eq!(connections(Some(64)), 32);
        assert_eq!(connections(Some(10_240)), 10_112);
        assert_eq!(connections(None), 10_112);
    }
}
