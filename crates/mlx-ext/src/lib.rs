//! What `mlx-rs` lacks, and all code of this project that touches MLX's memory.
//!
//! - [`init`] sets the process up: device, no run-time compilation, errors instead of `exit`.
//! - [`set_cache_limit`] bounds what MLX keeps of freed memory; [`mlx_memory`] says what it has.
//! - [`cpu`] has primitives for what MLX's CPU backend computes slowly: products and attention.
//! - [`MicroScaling`] has the operations on packed floats of 4 and 8 bits.
//! - [`operations`] says what evaluating an array would take.
//! - [`MappedFile`] makes arrays over a file's bytes, without a copy: loading a model costs the
//!   same at any size, and processes that map the same file share its pages.
//!
//! MLX's streams belong to threads: arrays that are still lazy must be evaluated on the thread that
//! built them. One thread of a process should own all MLX work.

pub mod cpu;
mod errors;
mod graph;
mod mapped_file;
mod memory;
mod microscaling;
mod region;

use mlx_rs::{DeviceType, error::Exception, transforms::compile};

pub use cpu::KvDtype;
pub use graph::operations;
pub use mapped_file::{MapError, MappedFile};
pub use memory::{MlxMemory, mlx_memory, set_cache_limit};
pub use microscaling::MicroScaling;

/// Where MLX computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// MLX's CPU kernels. Half precision is emulated there: compute in float32.
    Cpu,
    /// Metal. Half precision is native.
    Gpu,
}

impl Device {
    /// MLX's default device.
    ///
    /// # Errors
    /// When MLX cannot name its default device.
    pub fn current() -> Result<Self, Exception> {
        Ok(match mlx_rs::Device::try_default()?.get_type()? {
            DeviceType::Cpu => Self::Cpu,
            DeviceType::Gpu => Self::Gpu,
        })
    }
}

/// Sets this process up for MLX; call it before any other MLX work. Calling it again is harmless.
///
/// The default device becomes the GPU on macOS and the CPU elsewhere. Compiled functions are
/// switched off on the CPU, where MLX would run a C++ compiler for them. MLX's own error handler,
/// which ends the process, is replaced by one that makes a Rust error of the failed call.
///
/// # Errors
/// When MLX has no such device, or it does not start.
pub fn init() -> Result<Device, Exception> {
    // mlx-rs installs its error handler on the first call that can fail. This is that call:
    // `mlx_rs::Device::set_default` below reports nothing, and must not be the one that exits.
    Device::current()?;
    let wanted = if cfg!(target_os = "macos") { Device::Gpu } else { Device::Cpu };
    match wanted {
        Device::Gpu => {
            mlx_rs::Device::set_default(&mlx_rs::Device::gpu());
            // The first call that needs the device itself: what keeps Metal from starting is said here, and not in
            // terms of whatever would be the first to fail.
            mlx_rs::memory::memory_limit()?;
        }
        Device::Cpu => {
            mlx_rs::Device::set_default(&mlx_rs::Device::cpu());
            compile::disable_compile();
        }
    }
    let chosen = Device::current()?;
    if chosen != wanted {
        return Err(Exception::custom(format!("MLX runs on {chosen:?} although {wanted:?} was asked for")));
    }
    Ok(chosen)
}
