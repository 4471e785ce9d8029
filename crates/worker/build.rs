//! Tells the linker where the MLX libraries lie at run time (Linux; nothing on macOS).

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let rpath = env::var("DEP_MLX_EXT_RPATH").unwrap_or_default();
    for folder in rpath.split(':').filter(|folder| !folder.is_empty()) {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
