//! Compiles the C++ part where there is one, and tells dependents where the MLX libraries lie.

use std::{env, fs, path::PathBuf};

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
        ])
        .compile("mlx_ext");
    compile_kernels();
}

/// The kernels without instructions of a particular CPU, then one library for each kind of CPU: which of them runs is
/// decided at run time (`cpp/kernels/cpu.cpp`).
fn compile_kernels() {
    let x86 = env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64");
    let arm = env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("aarch64");
    const AVX2: &[&str] = &["-mavx2", "-mfma", "-mf16c"];
    const AVX512: &[&str] =
        &["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"];
    let kinds: [(&str, bool, &[&str]); 3] =
        [("_avx2.cpp", x86, AVX2), ("_avx512.cpp", x86, AVX512), ("_neon.cpp", arm, &[])];
    let (mut special, mut common) = (vec![Vec::new(); kinds.len()], Vec::new());
    for file in kernel_files() {
        let name = file.to_string_lossy().into_owned();
        match kinds.iter().position(|(ending, ..)| name.ends_with(ending)) {
            Some(kind) => special[kind].push(file),
            None => common.push(file),
        }
    }
    // Before the others, whose symbols it needs: static libraries are searched in this order.
    kernels().files(common).compile("kr_kernels");
    for ((ending, wanted, flags), files) in kinds.into_iter().zip(special) {
        if wanted && !files.is_empty() {
            let mut build = kernels();
            flags.iter().for_each(|flag| {
                build.flag(flag);
            });
            build.files(files).compile(&format!("kr_kernels{}", ending.trim_end_matches(".cpp")));
        }
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

/// Kernels are optimized in every profile, and rounded alike: no contraction into FMAs but the written ones.
fn kernels() -> cc::Build {
    let mut build = cpp();
    build.opt_level(3).flag("-fno-math-errno").flag("-ffp-contract=off").warnings(true).extra_warnings(true);
    build
}

fn cpp() -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20");
    build
}
