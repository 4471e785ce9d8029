//! This process's memory, as the system counts it.

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System, get_current_pid};

/// Reads the resident memory of this process.
#[derive(Debug)]
pub struct ResidentMemory {
    /// `None` where the system does not tell.
    source: Option<(System, Pid)>,
}

impl ResidentMemory {
    /// Reads nothing yet.
    pub fn new() -> Self {
        Self { source: System::new().ok().zip(get_current_pid().ok()) }
    }

    /// It in bytes, with the pages of mapped weights that are in memory; 0 if the system does not tell.
    pub fn bytes(&mut self) -> u64 {
        let Some((system, pid)) = &mut self.source else { return 0 };
        let memory = ProcessRefreshKind::nothing().without_tasks().with_memory();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[*pid]), true, memory);
        system.process(*pid).map_or(0, sysinfo::Process::memory)
    }
}

impl Default for ResidentMemory {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_to_is_resident() {
        const MORE: usize = 64 << 20;
        let mut memory = ResidentMemory::new();
        let before = memory.bytes();
        let touched = std::hint::black_box(vec![1u8; MORE]);
        let grown = memory.bytes() - before;
        assert!(before > 0 && grown > MORE as u64 / 2, "{before} bytes, and then {grown} more");
        drop(touched);
    }
}
