//! A feed-forward network of experts, of which each row goes through a few.

use std::{ffi::c_int, ptr::NonNull};

use mlx_rs::{Array, error::Exception};

use super::{
    Gate, MESSAGE_LEN, Matrix, array_from, context, error_of,
    foreign::{
        RawExpertSet, RawExperts, RawMatrix, mlx_ext_expert_set_free, mlx_ext_expert_set_new, mlx_ext_experts,
    },
};

/// The matrices of all experts of a layer, which all steps share.
#[derive(Debug)]
pub struct ExpertSet {
    raw: NonNull<RawExpertSet>,
}

/// `y = residual + Σ weight * down(activation(gate(x)) * up(x))`, over the experts that each row chooses.
#[derive(Debug, Clone, Copy)]
pub struct Experts<'a> {
    /// float32 `[rows, inputs]`, contiguous.
    pub x: &'a Array,
    /// float32 `[rows, experts]`: a row chooses the experts with the largest ones, and softmax of them weighs.
    pub routing: &'a Array,
    /// The experts.
    pub set: &'a ExpertSet,
    /// How many of them a row chooses.
    pub chosen: i32,
    /// Whether the weights of those add up to 1; otherwise those of all do.
    pub normalized: bool,
    /// What gates go through.
    pub gate: Gate,
    /// float32 like the result, contiguous.
    pub residual: Option<&'a Array>,
    /// As in [`Linear`](super::Linear).
    pub int8: bool,
}

impl ExpertSet {
    /// Of each expert's gate and up, `[inner, inputs]`, and down, `[outputs, inner]`. Their arrays have been evaluated.
    ///
    /// # Errors
    /// Shapes or types that do not fit.
    pub fn new([gates, ups, downs]: [&[Matrix<'_>]; 3], inputs: i32, inner: i32) -> Result<Self, Exception> {
        if gates.len() != ups.len() || gates.len() != downs.len() {
            return Err(Exception::custom("every expert has a gate, an up and a down"));
        }
        let matrices: Vec<RawMatrix> = [gates, ups, downs].concat().iter().map(RawMatrix::new).collect();
        let mut message = [0_u8; MESSAGE_LEN];
        // SAFETY: every pointer is null or borrowed from a matrix, which outlives the call; there are three matrices of
        // each expert, as checked above. C++ copies what it keeps, and checks shapes and types itself.
        let raw = unsafe {
            let experts = gates.len() as c_int;
            mlx_ext_expert_set_new(
                matrices.as_ptr(),
                experts,
                inputs,
                inner,
                message.as_mut_ptr().cast(),
                MESSAGE_LEN,
            )
        };
        NonNull::new(raw).map(|raw| Self { raw }).ok_or_else(|| error_of(&message))
    }
}

impl Drop for ExpertSet {
    fn drop(&mut self) {
        // SAFETY: made by `mlx_ext_expert_set_new`, freed once; operations hold shares of their own.
        unsafe { mlx_ext_expert_set_free(self.raw.as_ptr()) }
    }
}

/// The result, lazy: float32 `[rows, outputs]`.
///
/// # Errors
/// Shapes or types that do not fit; when it is evaluated, an input that is not contiguous.
pub fn experts(job: &Experts<'_>) -> Result<Array, Exception> {
    let spec = RawExperts {
        x: context(Some(job.x)),
        routing: context(Some(job.routing)),
        residual: context(job.residual),
        set: job.set.raw.as_ptr(),
        chosen: job.chosen,
        normalized: job.normalized.into(),
        gate: job.gate as c_int,
        int8: job.int8.into(),
    };
    // SAFETY: every pointer in `spec` is null or borrowed from `job`, whose parts outlive the call; C++ copies the handles
    // of arrays and shares the set, and checks shapes and types itself.
    array_from(|message, len| unsafe { mlx_ext_experts(&raw const spec, message, len) })
}
