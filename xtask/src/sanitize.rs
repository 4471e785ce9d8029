//! `cargo xtask sanitize`: the kernels' C++ tests under tools that see what a test cannot, and on another CPU.

use std::env;

use anyhow::{Result, bail};

use crate::{kernel_tests::Mode, workspace::Workspace};

/// Memory and everything that C++ leaves undefined, threads, memory that was never written; then the kernels of the
/// architecture that this machine is not.
const MODES: [Mode; 4] = [
    Mode {
        name: "address-undefined",
        compiler: &[],
        arch: env::consts::ARCH,
        flags: &[
            "-O1",
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=all",
            "-fno-omit-frame-pointer",
        ],
        under: &[],
        environment: &[("KR_THREADS", "2")],
        brief: true,
    },
    Mode {
        name: "thread",
        compiler: &[],
        arch: env::consts::ARCH,
        flags: &["-O1", "-fsanitize=thread"],
        under: &[],
        environment: &[("KR_THREADS", "4"), ("TSAN_OPTIONS", "halt_on_error=1")],
        brief: true,
    },
    Mode {
        name: "valgrind",
        compiler: &[],
        arch: env::consts::ARCH,
        flags: &["-O2"],
        under: &[
            "valgrind",
            "--quiet",
            "--error-exitcode=99",
            "--leak-check=full",
            // The pool's threads live as long as the process, and with them their memory.
            "--show-leak-kinds=definite",
            "--errors-for-leak-kinds=definite",
            "--fair-sched=yes",
        ],
        environment: &[("KR_THREADS", "2")],
        brief: true,
    },
    #[cfg(target_arch = "x86_64")]
    Mode {
        name: "aarch64",
        compiler: &["aarch64-linux-gnu-g++"],
        arch: "aarch64",
        flags: &["-O2", "-static"],
        under: &["qemu-aarch64"],
        environment: &[("KR_THREADS", "2")],
        brief: true,
    },
    #[cfg(target_arch = "aarch64")]
    Mode {
        name: "x86_64",
        compiler: &["x86_64-linux-gnu-g++"],
        arch: "x86_64",
        flags: &["-O2", "-static"],
        under: &["qemu-x86_64"],
        environment: &[("KR_THREADS", "2")],
        brief: true,
    },
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these, such as `thread` [default: all that the machine has the tools for].
    #[arg(value_name = "MODE", value_parser = clap::builder::PossibleValuesParser::new(MODES.map(|mode| mode.name)))]
    modes: Vec<String>,
}

/// Runs all modes, skips those for which the machine lacks something, and names those that failed.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let mut failed = Vec::new();
    for mode in &MODES {
        let asked = args.modes.iter().any(|name| name == mode.name);
        if !asked && !args.modes.is_empty() {
            continue;
        }
        match mode.lacks(workspace)? {
            Some(lack) if asked => bail!("{} needs what this machine lacks: {lack}", mode.name),
            Some(lack) => eprintln!("sanitize: {} skipped, this machine lacks {lack}", mode.name),
            None => {
                if let Err(error) = mode.run(workspace) {
                    eprintln!("{error:#}");
                    failed.push(mode.name);
                }
            }
        }
    }
    if failed.is_empty() {
        eprintln!("sanitize: clean");
        return Ok(());
    }
    bail!("sanitize found something in: {}", failed.join(", "))
}
