//! Processes, seen from outside (Linux's `/proc`).

use std::fs;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

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

/// Process ids of the children of `pid`.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut children: Vec<u32> = tasks
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect();
    children.sort_unstable();
    children
}

/// Whether `pid` runs.
pub fn is_alive(pid: u32) -> bool {
    test_kill_process(process(pid)).is_ok()
}

/// `kill -9`.
pub fn kill(pid: u32) {
    kill_process(process(pid), Signal::KILL).unwrap();
}

/// `kill -TERM`.
pub fn terminate(pid: u32) {
    kill_process(process(pid), Signal::TERM).unwrap();
}

/// `kill -STOP`.
pub fn suspend(pid: u32) {
    kill_process(process(pid), Signal::STOP).unwrap();
}

/// `kill -CONT`.
pub fn resume(pid: u32) {
    kill_process(process(pid), Signal::CONT).unwrap();
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

fn process(pid: u32) -> Pid {
    Pid::from_raw(pid.try_into().unwrap()).unwrap()
}
