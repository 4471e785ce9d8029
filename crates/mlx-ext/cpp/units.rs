//! Which instructions each unit of the kernels is compiled for. `build.rs`, the tests and xtask share this.

/// Instructions beyond those that every CPU of an architecture has, used by units of their own: which of these run is
/// decided at run time (`kernels/cpu.cpp`).
pub(crate) struct InstructionSet {
    /// The units' files end in `_<name>.cpp`; `KR_ISA` takes this name too.
    pub(crate) name: &'static str,
    /// Architecture of the target, in Rust's terms.
    pub(crate) arch: &'static str,
    /// What tells the compiler.
    pub(crate) flags: &'static [&'static str],
}

/// Best first. "portable", whose units are compiled like all the rest, is not among them.
pub(crate) static INSTRUCTION_SETS: [InstructionSet; 4] = [
    InstructionSet {
        name: "avx512vbmi",
        arch: "x86_64",
        flags: &[
            "-mavx2",
            "-mfma",
            "-mf16c",
            "-mavx512f",
            "-mavx512bw",
            "-mavx512vl",
            "-mavx512vnni",
            "-mavx512vbmi",
        ],
    },
    InstructionSet {
        name: "avx512",
        arch: "x86_64",
        flags: &["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"],
    },
    InstructionSet { name: "avx2", arch: "x86_64", flags: &["-mavx2", "-mfma", "-mf16c"] },
    InstructionSet { name: "neon", arch: "aarch64", flags: &[] },
];

/// Of every unit: rounded alike wherever compiled, with no contraction into FMAs but the written ones.
pub(crate) static FLAGS: [&str; 2] = ["-fno-math-errno", "-ffp-contract=off"];

impl InstructionSet {
    /// The set that a unit is written for; `None`: any CPU.
    pub(crate) fn of_unit(file_name: &str) -> Option<&'static Self> {
        INSTRUCTION_SETS.iter().find(|set| file_name.ends_with(&format!("_{}.cpp", set.name)))
    }
    /// Whether the CPU that this runs on has it: what `kernels/cpu.cpp` asks.
    pub(crate) fn is_here(&self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            match self.name {
                "avx2" => avx2,
                "avx512" => avx2 && avx512,
                "avx512vbmi" => avx2 && avx512 && is_x86_feature_detected!("avx512vbmi"),
                _ => false,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self.arch == std::env::consts::ARCH
        }
    }
}
