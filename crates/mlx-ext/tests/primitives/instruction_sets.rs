//! All of these tests on the instruction sets that this CPU has and that would not be chosen.

#[path = "../../cpp/units.rs"]
#[allow(dead_code, reason = "the compiler's flags are of no interest here")]
mod units;

use std::{env, process::Command};

use mlx_ext::cpu;

#[test]
fn every_other_one_passes_too() {
    if let Ok(name) = env::var("KR_ISA") {
        // This process is one of the others.
        assert_eq!(cpu::instructions(), name);
        return;
    }
    for name in others() {
        let run = Command::new(env::current_exe().unwrap()).env("KR_ISA", name).output().unwrap();
        let said = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "on {name}:\n{said}");
    }
}

/// Those that this CPU has, but the one that is used.
pub(crate) fn others() -> impl Iterator<Item = &'static str> {
    let sets = units::INSTRUCTION_SETS.iter().filter(|set| set.is_here()).map(|set| set.name);
    sets.chain(["portable"]).filter(|name| *name != cpu::instructions())
}
