//! Compiles the C++ part where there is one, and tells dependents where the MLX libraries lie.

#[path = "cpp/units.rs"]
#[allow(dead_code, reason = "the CPU that compiles is not asked what it can run")]
mod units;

use std::{env, fs, path::PathBuf};

use units::{FLAGS, INSTRUCTION_SETS, InstructionSet};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=cpp");

    // Set on Linux by the build script override that `cargo xtask setup` writes; absent on macOS,
    // where mlx-sys builds MLX as static libraries.
    let rpath = env::var("DEP_MLX_RPATH").unwrap_or_default();
    for folder in rpath.split(':').filter(|folder| !folder.is_empty()) {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{folder}");
    }
    println!("cargo::metadata=rpath={rpath}");

    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    let Ok(include) = env::var("DEP_MLX_INCLUDE") else {
        // Not reached in a working set-up: without the override mlx-sys itself fails on Linux.
        println!("cargo::error=MLX's headers are unknown; run `cargo xtask setup`");
        return;
    };
    cpp()
        .includes(include.split(':').filter(|folder| !folder.is_empty()))
        .flag_if_supported("-Wno-unused-parameter") // in MLX's headers
        .files([
            "cpp/no_copy.cpp",
            "cpp/chain.cpp",
            "cpp/linear_operation.cpp",
            "cpp/attention_operation.cpp",
            "cpp/rowwise_operation.cpp",
            "cpp/gate_up_operation.cpp",
            "cpp/experts_operation.cpp",
            "cpp/head_products_operation.cpp",
            "cpp/gated_operation.cpp",
            "cpp/recurrent_operation.cpp",
        ])
        .compile("mlx_ext");
    compile_kernels();
}

/// The kernels without instructions of a particular CPU, then one library for each kind of CPU: which of them runs is
/// decided at run time (`cpp/kernels/cpu.cpp`).
fn compile_kernels() {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let set_of = |file: &PathBuf| InstructionSet::of_unit(&file.to_string_lossy());
    let (special, common): (Vec<_>, Vec<_>) =
        kernel_files().into_iter().partition(|file| set_of(file).is_some());
    // Before the others, whose symbols it needs: static libraries are searched in this order.
    kernels().files(common).compile("kr_kernels");
    for set in INSTRUCTION_SETS.iter().filter(|set| set.arch == arch) {
        let is_of_set = |file: &&PathBuf| set_of(file).is_some_and(|of_file| of_file.name == set.name);
        let mut build = kernels();
        for flag in set.flags {
            build.flag(flag);
        }
        build.files(special.iter().filter(is_of_set)).compile(&format!("kr_kernels_{}", set.name));
    }
}

fn kernel_files() -> Vec<PathBuf> {
    let entries = fs::read_dir("cpp/kernels").into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "cpp"))
        .collect();
    files.sort();
    files
}

/// Kernels are optimized in every profile.
fn kernels() -> cc::Build {
    let mut build = cpp();
    build.opt_level(3).warnings(true).extra_warnings(true);
    for flag in FLAGS {
        build.flag(flag);
    }
    build
}

fn cpp() -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20");
    build
}
