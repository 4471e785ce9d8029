//! Rows that are multiplied by a gate, and columns of rows.

use std::{ffi::c_int, ops::Range};

use mlx_rs::{Array, error::Exception};

use super::{
    array_from, context,
    foreign::{RawGated, RawPiece, mlx_ext_columns, mlx_ext_gated},
};

/// What a gate goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu = 0,
    /// `1 / (1 + e^-x)`.
    Sigmoid = 1,
    /// GELU in its approximation with a hyperbolic tangent.
    GeluTanh = 2,
}

/// `y = residual + activation(gate) * x`.
#[derive(Debug, Clone, Copy)]
pub struct Gated<'a> {
    /// float32 `[rows, width]`, contiguous.
    pub x: &'a Array,
    /// float32 like `x`, or `[rows, 1]`, contiguous.
    pub gate: &'a Array,
    /// What the gate goes through.
    pub activation: Activation,
    /// float32 like `x`, contiguous.
    pub residual: Option<&'a Array>,
}

/// The result, lazy: float32 like `x`.
///
/// # Errors
/// Shapes or types that do not fit; when it is evaluated, an input that is not contiguous.
pub fn gated(job: &Gated<'_>) -> Result<Array, Exception> {
    let spec = RawGated {
        x: context(Some(job.x)),
        gate: context(Some(job.gate)),
        residual: context(job.residual),
        activation: job.activation as c_int,
    };
    // SAFETY: every pointer in `spec` is null or borrowed from `job`, whose arrays outlive the call; C++ copies their handles,
    // and checks shapes and types itself.
    array_from(|message, len| unsafe { mlx_ext_gated(&raw const spec, message, len) })
}

/// The columns of `pieces` one behind the other, none twice: of float32 `[rows, width]`, contiguous; lazy.
///
/// # Errors
/// There are no such columns, or `x` is something else; when it is evaluated, it is not contiguous.
pub fn columns(x: &Array, pieces: &[Range<i32>]) -> Result<Array, Exception> {
    let raw =
        |piece: &Range<i32>| RawPiece { first: piece.start, count: piece.end.saturating_sub(piece.start) };
    let pieces: Vec<RawPiece> = pieces.iter().map(raw).collect();
    let count = pieces.len() as i32;
    // SAFETY: the array and the list outlive the call; C++ copies both, and checks ranges, shape and type itself.
    array_from(|message, len| unsafe {
        mlx_ext_columns(context(Some(x)), pieces.as_ptr(), count, message, len)
    })
}
