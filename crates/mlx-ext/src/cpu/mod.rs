//! MLX primitives of this project for the CPU: products with weight matrices, attention on paged keys and
//! values, layers with a recurrent state, and what is done with each row by itself.
//!
//! MLX's CPU backend computes these with one scalar thread; these use all cores and the CPU's vector instructions. Their
//! results are lazy arrays of MLX's graph like any other, in float32. What a row's result is, bit for bit, depends on
//! the row and the weights alone: not on the other rows of the call, the number of threads, or the CPU's instructions.
//!
//! Operations on each other's lazy results become one node of the graph (`cpp/chain.h` says why). The kernels are C++
//! without MLX (`cpp/kernels`); what makes operations of them is `cpp/*_operation.cpp`. They are built on Linux only;
//! elsewhere every call is an error.

#![allow(unsafe_code)]

mod attention;
mod experts;
mod foreign;
mod gated;
mod head_products;
mod linear;
mod recurrent;
mod rowwise;

use std::ffi::{CStr, c_char, c_void};

use mlx_rs::{Array, error::Exception, transforms::eval};

pub use attention::{Attention, KvDtype, KvPool, KvShape, Step, StepRow};
pub use experts::{ExpertSet, Experts, Routing, Scores, experts};
use foreign::{mlx_ext_compute, mlx_ext_instructions, mlx_ext_progress, mlx_ext_threads};
pub use gated::{Activation, Gated, columns, gated};
pub use head_products::{HeadProducts, head_products};
pub use linear::{Gate, Linear, Matrix, Quantization, embedding, gate_up, linear};
pub use recurrent::{Convolution, GatedDelta, StatePool, StateRow, StateStep, convolution, gated_delta};
pub use rowwise::{NormKind, NormedPart, Rowwise, rowwise};

/// Longest error text that crosses from C++.
const MESSAGE_LEN: usize = 256;

/// The CPU's instructions that the kernels use: "portable", "avx2", "avx512", "avx512vbmi" or "neon";
/// "none" where they are not built.
pub fn instructions() -> &'static str {
    // SAFETY: the C++ function takes nothing and returns a literal.
    unsafe { CStr::from_ptr(mlx_ext_instructions()) }.to_str().unwrap_or_default()
}

/// How many threads compute, the calling one included; 0 where the kernels are not built.
pub fn threads() -> usize {
    // SAFETY: the C++ function takes nothing; it may start the threads.
    unsafe { mlx_ext_threads() }.unsigned_abs() as usize
}

/// Evaluates the result of primitives: on the calling thread where nothing else is needed for it. That saves waking MLX's
/// thread and being woken by it, which takes as long as a few of the primitives of a small model.
///
/// # Errors
/// An input is not as its primitive needs it, or MLX has failed.
pub fn evaluate(result: &Array) -> Result<(), Exception> {
    let mut message = [0_u8; MESSAGE_LEN];
    // SAFETY: the array outlives the call, and one thread owns all MLX work; C++ changes what is lazy in it only.
    let computed =
        unsafe { mlx_ext_compute(context(Some(result)), message.as_mut_ptr().cast(), MESSAGE_LEN) };
    if computed != 0 {
        return Ok(());
    }
    if message[0] != 0 {
        return Err(error_of(&message));
    }
    eval([result])
}

/// A number that changes whenever any primitive of this process gets on by a short piece of work: far less than all of
/// it, unless it is small. Any thread may ask for it.
pub fn progress() -> u64 {
    // SAFETY: the C++ function takes nothing and reads atomics.
    unsafe { mlx_ext_progress() }
}

/// Calls a maker of an array: it returns mlx-c's context, or null and a text.
pub(crate) fn array_from(make: impl FnOnce(*mut c_char, usize) -> *mut c_void) -> Result<Array, Exception> {
    let mut message = [0_u8; MESSAGE_LEN];
    let ctx = make(message.as_mut_ptr().cast(), MESSAGE_LEN);
    if ctx.is_null() {
        return Err(error_of(&message));
    }
    // SAFETY: a non-null context is a new `mlx::core::array`, which the handle comes to own.
    Ok(unsafe { Array::from_ptr(mlx_sys::mlx_array_ { ctx }) })
}

/// The error whose text C++ has written.
fn error_of(message: &[u8]) -> Exception {
    let text = CStr::from_bytes_until_nul(message).unwrap_or_default();
    Exception::custom(text.to_string_lossy().into_owned())
}

/// mlx-c's context of an array, which C++ reads as `mlx::core::array*`; null for none.
fn context(array: Option<&Array>) -> *mut c_void {
    array.map_or(std::ptr::null_mut(), |array| array.as_ptr().ctx)
}
