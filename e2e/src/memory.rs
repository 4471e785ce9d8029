//! Memory of processes, which only Linux tells this precisely (`/proc`).

use std::fs;

/// Memory of one process's mappings of some files, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// Resident, each page divided by the number of its users.
    pub pss: u64,
    /// Resident and used by no other process.
    pub private: u64,
}

/// Memory of those mappings of `pid` whose line in `smaps` contains `name`; of all if it is empty.
pub fn mapped_memory(pid: u32, name: &str) -> Memory {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut memory = Memory::default();
    let mut counts = false;
    for line in smaps.lines() {
        let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
        if !key.ends_with(':') {
            counts = line.contains(name);
            continue;
        }
        let kib = || rest.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024;
        match key {
            "Rss:" if counts => memory.rss += kib(),
            "Pss:" if counts => memory.pss += kib(),
            "Private_Clean:" | "Private_Dirty:" if counts => memory.private += kib(),
            _ => {}
        }
    }
    memory
}
