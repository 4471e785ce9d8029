//! Who uses an artifact, as far as the platform tells.

use std::{fmt, fs, path::Path};

use crate::printable;

/// A process that holds a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Name of its program, if the platform tells.
    pub program: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.program {
            // A process chooses its name itself.
            Some(program) => write!(f, "{} (process {})", printable(program), self.pid),
            None => write!(f, "process {}", self.pid),
        }
    }
}

/// Who holds the lock on a file in any way, as far as the platform tells.
pub(crate) fn lock_holders(file: &fs::Metadata) -> Vec<Holder> {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    pids(&locks, file, &["READ", "WRITE"]).into_iter().map(holder).collect()
}

/// The processes that share the lock on a file, as far as the platform tells.
pub(crate) fn sharers(file: &fs::Metadata) -> Vec<u32> {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    pids(&locks, file, &["READ"])
}

/// The process with this id.
pub(crate) fn holder(pid: u32) -> Holder {
    let program = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm")).ok();
    Holder { pid, program: program.map(|name| name.trim_end().to_owned()) }
}

/// The processes with a lock of these kinds on a file, from lines such as
/// `1: FLOCK  ADVISORY  READ 1234 fe:00:5678 0 EOF`; who waits has `->` before `FLOCK`.
#[cfg(target_os = "linux")]
fn pids(locks: &str, file: &fs::Metadata, kinds: &[&str]) -> Vec<u32> {
    use std::os::linux::fs::MetadataExt;

    let device = file.st_dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let place = format!("{major:02x}:{minor:02x}:{}", file.st_ino());
    let mut pids: Vec<u32> = locks
        .lines()
        .filter_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [_, "FLOCK", _, kind, pid, of, ..] if of == place && kinds.contains(&kind) => pid.parse().ok(),
            _ => None,
        })
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

#[cfg(not(target_os = "linux"))]
fn pids(_locks: &str, _file: &fs::Metadata, _kinds: &[&str]) -> Vec<u32> {
    Vec::new()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::linux::fs::MetadataExt;

    use super::*;

    #[test]
    fn only_those_who_share_the_file_are_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let metadata = file.as_file().metadata().unwrap();
        let device = metadata.st_dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let place = format!("{major:02x}:{minor:02x}:{}", metadata.st_ino());
        let locks = format!(
            "1: FLOCK  ADVISORY  READ 12 {place} 0 EOF\n\
             1: -> FLOCK  ADVISORY  READ 13 {place} 0 EOF\n\
             2: FLOCK  ADVISORY  WRITE 14 {place} 0 EOF\n\
             3: POSIX  ADVISORY  READ 15 {place} 0 EOF\n\
             4: FLOCK  ADVISORY  READ 16 {place}1 0 EOF\n\
             5: FLOCK  ADVISORY  READ 11 {place} 0 EOF\n"
        );
        assert_eq!(pids(&locks, &metadata, &["READ"]), [11, 12]);
        assert_eq!(pids(&locks, &metadata, &["READ", "WRITE"]), [11, 12, 14]);
    }
}
