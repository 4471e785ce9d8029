//! Memory of processes, as Linux reports it (`/proc`). Other systems do not report it in this detail: there, every
//! function here fails.

use std::{fs, io};

/// Memory of one process's mappings, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// Resident, each page divided by the number of its users.
    pub pss: u64,
    /// Resident and used by no other process.
    pub private: u64,
}

/// Memory of those mappings of `pid` whose line in `smaps` contains `name`; of all if it is empty.
///
/// # Errors
/// If the process has ended, or the system is not Linux.
pub fn mapped(pid: u32, name: &str) -> io::Result<Memory> {
    Ok(sum(&fs::read_to_string(format!("/proc/{pid}/smaps"))?, name))
}

/// The memory that `pid` has resident, in bytes: cheaper to ask for than [`mapped`].
///
/// # Errors
/// If the process has ended, or the system is not Linux.
pub fn resident(pid: u32) -> io::Result<u64> {
    status(pid, "VmRSS:")
}

/// The memory that `pid` has resident and that is no file's, in bytes: what it has allocated, without mapped weights.
///
/// # Errors
/// If the process has ended, or the system is not Linux.
pub fn anonymous(pid: u32) -> io::Result<u64> {
    status(pid, "RssAnon:")
}

/// The most memory that `pid` has had resident, in bytes.
///
/// # Errors
/// If the process has ended, or the system is not Linux.
pub fn peak(pid: u32) -> io::Result<u64> {
    status(pid, "VmHWM:")
}

/// The bytes of one line of the process's status.
fn status(pid: u32, key: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.map(bytes).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("no {key} in the process's status"))
    })
}

fn sum(smaps: &str, name: &str) -> Memory {
    let mut memory = Memory::default();
    let mut counts = false;
    for line in smaps.lines() {
        let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
        if !key.ends_with(':') {
            counts = line.contains(name);
            continue;
        }
        match key {
            "Rss:" if counts => memory.rss += bytes(rest),
            "Pss:" if counts => memory.pss += bytes(rest),
            "Private_Clean:" | "Private_Dirty:" if counts => memory.private += bytes(rest),
            _ => {}
        }
    }
    memory
}

/// The bytes of a value such as `  12 kB`.
fn bytes(value: &str) -> u64 {
    value.trim().trim_end_matches(" kB").parse::<u64>().map_or(0, |kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_told_apart_by_their_name() {
        let smaps = "7f00-7f10 r--p 00000000 08:01 7 /store/blobs/ab\n\
                     Rss:  8 kB\nPss:  4 kB\nPrivate_Clean:  0 kB\nPrivate_Dirty:  2 kB\n\
                     7f20-7f30 rw-p 00000000 00:00 0 [heap]\nRss:  1 kB\nPss:  1 kB\nPrivate_Dirty:  1 kB\n";
        assert_eq!(sum(smaps, "/blobs/"), Memory { rss: 8192, pss: 4096, private: 2048 });
        assert_eq!(sum(smaps, "").rss, 9216);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_has_never_had_less_than_it_has() {
        let pid = std::process::id();
        let now = mapped(pid, "").unwrap().rss;
        assert!(now > 0 && peak(pid).unwrap() > now / 2);
        // In this order: what comes in between raises the peak.
        let resident = resident(pid).unwrap();
        assert!(anonymous(pid).unwrap() > 0);
        assert!(peak(pid).unwrap() >= resident);
    }
}
