//! Compiles the C++ part where there is one, and tells dependents where the MLX libraries lie.

use std::env;

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
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .includes(include.split(':').filter(|folder| !folder.is_empty()))
        .file("cpp/no_copy.cpp")
        .flag_if_supported("-Wno-unused-parameter") // in MLX's headers
        .compile("mlx_ext");
}
