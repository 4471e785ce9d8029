//! Memory of processes, as Linux tells it.

use std::fs;

use anyhow::{Context, Result};

/// Memory of one process's mappings, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// Resident.
    pub(super) rss: u64,
    /// Resident, each page divided by the number of its users.
    pub(super) pss: u64,
    /// Resident and used by no other process.
    pub(super) private: u64,
}

/// Memory of the mappings of `pid` whose line contains `name`; of all if it is empty.
pub(super) fn mapped(pid: u32, name: &str) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {path}: memory is measured on Linux only"))?;
    Ok(sum(&text, name))
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
        let bytes = rest.trim().trim_end_matches(" kB").parse::<u64>().map_or(0, |kib| kib * 1024);
        match key {
            "Rss:" if counts => memory.rss += bytes,
            "Pss:" if counts => memory.pss += bytes,
            "Private_Clean:" | "Private_Dirty:" if counts => memory.private += bytes,
            _ => {}
        }
    }
    memory
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
}
