//! Processes, seen from outside: `/proc` of Linux. Other systems don't tell, and what needs it is left out of reports.

use std::{fs, io, time::Duration};

use rustix::{
    param::clock_ticks_per_second,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use test_support::memory;

/// Processor time that a process used from a moment on.
#[derive(Clone, Copy, Debug)]
pub struct CpuMeter {
    pid: Option<u32>,
    begin: Duration,
}

impl CpuMeter {
    /// From now on; of no process, it measures nothing.
    pub fn start(pid: Option<u32>) -> Self {
        Self { pid, begin: pid.and_then(|pid| cpu_time(pid).ok()).unwrap_or_default() }
    }

    /// Seconds since the start, if they are known.
    pub fn seconds(&self) -> Option<f64> {
        let now = cpu_time(self.pid?).ok()?;
        Some(now.saturating_sub(self.begin).as_secs_f64())
    }
}

/// Resident memory in bytes, if it is known.
pub fn resident(pid: Option<u32>) -> Option<u64> {
    memory::resident(pid?).ok()
}

/// The most resident memory of a process that is seen while `work` goes on, in bytes, if it is known.
pub async fn peak_during(
    pid: Option<u32>,
    interval: Duration,
    work: impl Future<Output = ()>,
) -> Option<u64> {
    tokio::pin!(work);
    let mut peak = resident(pid);
    loop {
        tokio::select! {
            () = &mut work => return peak.max(resident(pid)),
            () = tokio::time::sleep(interval) => peak = peak.max(resident(pid)),
        }
    }
}

/// Lets this process have as many sockets as the system allows; without that, large experiments fail and say so.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum.or(Some(1 << 16)), maximum: limit.maximum };
    let _ = setrlimit(Resource::Nofile, wanted);
}

/// Of all of its threads, in user and kernel mode.
fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = ticks(&stat)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the process's stat has another form"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
}

/// `utime` and `stime` of `/proc/PID/stat`. The second field, the name, may hold anything, also a parenthesis.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    Some(user + kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 4 0 100 0 0";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_used_memory() {
        assert!(resident(Some(std::process::id())) > Some(100_000));
        assert!(CpuMeter::start(Some(std::process::id())).seconds().is_some());
        assert!(CpuMeter::start(None).seconds().is_none() && resident(None).is_none());
    }
}
