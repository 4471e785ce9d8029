//! Processes, seen from outside.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Longest time for a process to end.
const END: Duration = Duration::from_secs(30);

/// Whether there is a process `pid`. One that ended and was not reaped counts.
pub fn is_alive(pid: u32) -> bool {
    test_kill_process(process(pid)).is_ok()
}

/// Waits until `pid` has ended, which takes a moment after its parent's end.
///
/// # Panics
/// It still runs after a while.
pub fn wait_for_end(pid: u32) {
    let deadline = Instant::now() + END;
    while is_alive(pid) {
        assert!(Instant::now() < deadline, "process {pid} still runs after {END:?}");
        // No event tells of the end of a process that is not one's own child.
        thread::sleep(Duration::from_millis(5));
    }
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

fn process(pid: u32) -> Pid {
    Pid::from_raw(pid.try_into().unwrap()).unwrap()
}
