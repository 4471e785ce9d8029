//! What the figures were measured on.

use std::{fs, process::Command, thread, time::Duration};

use crate::process;

/// The processor, its cores and the memory, in one line.
pub(super) fn describe() -> String {
    let (cpu, bytes) = if cfg!(target_os = "macos") {
        (sysctl("machdep.cpu.brand_string"), sysctl("hw.memsize").and_then(|text| text.parse().ok()))
    } else {
        (value("/proc/cpuinfo", "model name"), memory())
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let memory = bytes.map_or("unknown".to_owned(), |bytes: u64| format!("{} GiB", bytes.div_ceil(1 << 30)));
    let system = process::output(kernel()).unwrap_or_default();
    format!("{}, {cores} cores, {memory} of memory, {}", cpu.unwrap_or_default(), system.trim())
}

/// Over this share of the processor's time in use, something else runs.
const QUIET: f64 = 0.1;
/// How long to look whether something else runs.
const LOOK: Duration = Duration::from_millis(100);

/// Whether something else than this waiting process uses the processor. Where that cannot be told, nothing does.
pub(super) fn is_disturbed() -> bool {
    let Some((busy, all)) = processor_time() else { return false };
    thread::sleep(LOOK);
    let Some((busy_later, all_later)) = processor_time() else { return false };
    (busy_later - busy) / (all_later - all).max(1.0) > QUIET
}

/// Says so if something else runs, which spoils what is measured next.
pub(super) fn say_if_disturbed() {
    if is_disturbed() {
        println!("\nSomething else runs on this machine.");
    }
}

/// Time that all cores were busy, and all time, in the same unit.
fn processor_time() -> Option<(f64, f64)> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let fields = text.lines().next()?.split_whitespace().skip(1);
    let times: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
    let all: f64 = times.iter().sum();
    // User, nice, system, idle, waiting for the disk, …
    let idle = times.get(3)? + times.get(4)?;
    Some((all - idle, all))
}

fn kernel() -> Command {
    let mut uname = Command::new("uname");
    uname.arg("-srm");
    uname
}

fn sysctl(name: &str) -> Option<String> {
    let mut sysctl = Command::new("sysctl");
    sysctl.args(["-n", name]);
    Some(process::output(sysctl).ok()?.trim().to_owned())
}

/// Bytes of memory, on Linux.
fn memory() -> Option<u64> {
    let text = value("/proc/meminfo", "MemTotal")?;
    Some(text.trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// What stands behind `key:` in its first line in a file.
fn value(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.split_once(':').filter(|(name, _)| name.trim() == key));
    line.map(|(_, value)| value.trim().to_owned())
}
