//! `cargo xtask setup`: MLX for this machine.
//!
//! On macOS the `mlx-sys` crate builds MLX itself and set-up only looks for the tools that needs. On Linux that build
//! cannot work, so set-up makes what it would have made, out of ready parts, and tells cargo to use it:
//!
//! ```text
//! .mlx/mlx-cpu-*        MLX itself: libmlx.so and headers            (a Python wheel, unpacked)
//! .mlx/libclang-*       what bindgen parses C with                   (a Python wheel, unpacked)
//! .mlx/mlxc-*           libmlxc.so and headers: MLX's C interface    (compiled from the sources in mlx-sys)
//! .mlx/bindings-*       bindings.rs: that interface in Rust          (bindgen)
//! .cargo/mlx-linux.toml cargo's build script override, which names all of these
//! ```
//!
//! A folder's name carries the hash of everything it was made from, and it gets that name only when it is complete.
//! So what exists is right, a changed input makes a new folder, and an interruption leaves a `tmp-*` and nothing else.

#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "macOS only fetches the default model"))]
pub(crate) mod downloads;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(any(target_os = "macos", test))]
mod version;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "macOS only fetches the default model"))]
pub(crate) mod wheel;

#[cfg(target_os = "linux")]
pub(crate) use linux::{bindings, prerequisites, run};
#[cfg(target_os = "macos")]
pub(crate) use macos::run;
