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
    /// float32 `[rows, experts]`: what the router gives.
    pub router: &'a Array,
    /// What a row chooses by it.
    pub routing: Routing<'a>,
    /// The experts.
    pub set: &'a ExpertSet,
    /// What gates go through.
    pub gate: Gate,
    /// float32 like the result, contiguous.
    pub residual: Option<&'a Array>,
    /// As in [`Linear`](super::Linear).
    pub int8: bool,
}

/// The rule by which rows choose experts: those with the largest scores, of equal ones the first.
#[derive(Debug, Clone, Copy)]
pub struct Routing<'a> {
    /// How many a row chooses.
    pub chosen: i32,
    /// What becomes of the router's outputs.
    pub scores: Scores,
    /// float32 `[experts]`, contiguous: added to the scores that are compared, but not to weights.
    pub correction: Option<&'a Array>,
    /// float32 `[experts]`, contiguous: of the weights of each, beside `factor`.
    pub factors: Option<&'a Array>,
    /// Neighbouring experts form as many groups; 1 where there are none.
    pub groups: i32,
    /// Experts of the best groups only can be chosen.
    pub chosen_groups: i32,
    /// A group is as good as the sum of so many of its largest scores: 1 or 2.
    pub best_of_group: i32,
    /// Whether the weights of those chosen add up to 1; otherwise a weight is the score.
    pub normalized: bool,
    /// Added to the sum of sigmoids that weights are divided by then: all of them may be 0.
    pub least_sum: f32,
    /// Of the weights.
    pub factor: f32,
    /// Whether weights multiply what experts get; otherwise what they give.
    pub weighs_inputs: bool,
}

/// What experts are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Scores {
    /// Softmax of all outputs of the router.
    Softmax = 0,
    /// The sigmoid of each.
    Sigmoid = 1,
}

impl Routing<'_> {
    /// Softmax of the router's outputs weighs, and nothing else matters.
    pub const fn softmax(chosen: i32, normalized: bool) -> Self {
        Self {
            chosen,
            scores: Scores::Softmax,
            correction: None,
            factors: None,
            groups: 1,
            chosen_groups: 1,
            best_of_group: 1,
            normalized,
            least_sum: 1e-20,
            factor: 1.0,
            weighs_inputs: false,
        }
    }
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
    let routing = &job.routing;
    let spec = RawExperts {
        x: context(Some(job.x)),
        router: context(Some(job.router)),
        correction: context(routing.correction),
        factors: context(routing.factors),
        residual: context(job.residual),
        set: job.set.raw.as_ptr(),
        chosen: routing.chosen,
        scores: routing.scores as c_int,
        groups: routing.groups,
        chosen_groups: routing.chosen_groups,
        best_of_group: routing.best_of_group,
        normalized: routing.normalized.into(),
        least_sum: routing.least_sum,
        factor: routing.factor,
        weighs_inputs: routing.weighs_inputs.into(),
        gate: job.gate as c_int,
        int8: job.int8.into(),
    };
    // SAFETY: every pointer in `spec` is null or borrowed from `job`, whose parts outlive the call; C++ copies the handles
    // of arrays and shares the set, and checks shapes and types itself.
    array_from(|message, len| unsafe { mlx_ext_experts(&raw const spec, message, len) })
}
