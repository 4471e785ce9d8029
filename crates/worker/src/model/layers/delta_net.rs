//! A gated delta net in place of attention, with a residual connection.

use std::ops::Range;

use mlx_rs::{Array, error::Exception};

use super::{
    FusedLinear, ModelError, NormParams, Normalization, StateParts, Weights, linear::OutputLinear,
    load_kernel, load_matrix,
};
use crate::backend::{
    Activation, Backend, Columns, Convolution, ConvolutionForm, DeltaHeads, Gated, GatedDelta, Rowwise,
    StepMemory,
};

/// Added to the sum of squares of queries and of keys.
const EPS: f32 = 1e-6;

/// How the inputs of a gated delta net are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum DeltaInputs {
    /// `in_proj_qkvz` and `in_proj_ba`: what belongs to a head of keys lies together.
    ByHead,
    /// `in_proj_qkv`, `in_proj_z`, `in_proj_b` and `in_proj_a`.
    ByKind,
}

/// What [`DeltaNet::load`] needs beside names.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct DeltaNetPlan {
    pub(in crate::model) heads: DeltaHeads,
    /// Tokens that the convolution before it looks at.
    pub(in crate::model) taps: i32,
    /// Of the normalization of its results.
    pub(in crate::model) eps: f32,
    pub(in crate::model) inputs: DeltaInputs,
}

/// `residual + out(norm(rule(conv(qkv), b, a)) * silu(z))` with all inputs made of `before(x)`.
pub(in crate::model) struct DeltaNet {
    /// Normalization, then all inputs.
    in_proj: FusedLinear,
    layout: Layout,
    convolution: Convolution,
    /// Queries and keys get length 1, and the former the factor of attention scores.
    query: Normalization,
    key: Normalization,
    rule: GatedDelta,
    norm: Normalization,
    out_proj: OutputLinear,
    heads: DeltaHeads,
    backend: Backend,
}

/// Where the inputs are.
struct Layout {
    qkv: Columns,
    /// What results are multiplied by.
    z: Columns,
    /// `b`, then `a`.
    gates: Columns,
}

impl DeltaNet {
    /// Takes what stands below `name`.
    pub(in crate::model) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        (plan, hidden): (DeltaNetPlan, i32),
        before: Option<Normalization>,
        states: &mut StateParts,
    ) -> Result<Self, ModelError> {
        let DeltaNetPlan { heads, taps, eps, inputs } = plan;
        let part = |part: &str| format!("{name}.{part}");
        let (width, values) = (heads.width(), heads.value_width());
        let stored: &[(&str, i32)] = match inputs {
            DeltaInputs::ByHead => &[("in_proj_qkvz", width + values), ("in_proj_ba", 2 * heads.values)],
            DeltaInputs::ByKind => &[
                ("in_proj_qkv", width),
                ("in_proj_z", values),
                ("in_proj_b", heads.values),
                ("in_proj_a", heads.values),
            ],
        };
        let mut load =
            |&(which, outputs): &(&str, i32)| load_matrix(weights, &part(which), [outputs, hidden], false);
        let matrices = stored.iter().map(&mut load).collect::<Result<_, _>>()?;
        let kernel = load_kernel(weights, &part("conv1d"), [width, taps], false)?;
        let log_rates = weights.take_float(&part("A_log"), &[heads.values])?;
        let biases = weights.take_float(&part("dt_bias"), &[heads.values])?;
        let norm = Normalization::load(weights, &part("norm"), heads.value_dim, NormParams::rms(eps))?;
        let out_proj = load_matrix(weights, &part("out_proj"), [hidden, values], false)?;
        let backend = weights.backend();
        let state = states.add(vec![taps - 1, width]);
        let convolution = backend.convolution(&kernel.weight, None, ConvolutionForm::Silu, state)?;
        let state = states.add(vec![heads.values, heads.key_dim, heads.value_dim]);
        let scale = (heads.key_dim as f32).sqrt().recip();
        Ok(Self {
            in_proj: FusedLinear::new(before, matrices, weights),
            layout: Layout::new(heads, inputs),
            convolution,
            query: unit_length(heads.key_dim, scale, backend)?,
            key: unit_length(heads.key_dim, 1.0, backend)?,
            rule: backend.delta_rule(heads, &log_rates, &biases, state)?,
            norm,
            out_proj: OutputLinear::new(out_proj, None, 1.0, weights),
            heads,
            backend,
        })
    }

    /// `x` and the result: `[tokens, hidden]`; lazy. Appends to the rows' states.
    pub(in crate::model) fn forward(&self, x: &Array, step: &StepMemory<'_>) -> Result<Array, Exception> {
        let inputs = self.in_proj.forward(x, None)?;
        let columns = |columns: &Columns| self.backend.columns(&inputs, columns);
        let mixed = step.convolve(&self.convolution, &columns(&self.layout.qkv)?)?;
        let norms = [(&self.query.norm, self.heads.keys), (&self.key.norm, self.heads.keys)];
        let qkv = self.backend.rowwise(&Rowwise { norms: &norms, ..Rowwise::of(&mixed) })?;
        let learned = step.gated_delta(&self.rule, &qkv, &columns(&self.layout.gates)?)?;
        let norms = [(&self.norm.norm, self.heads.values)];
        let normed = self.backend.rowwise(&Rowwise { norms: &norms, ..Rowwise::of(&learned) })?;
        let gate = columns(&self.layout.z)?;
        let gated = Gated { x: &normed, gate: &gate, activation: Activation::Silu, residual: None };
        self.out_proj.forward(&self.backend.gated(&gated)?, x)
    }
}

impl Layout {
    fn new(heads: DeltaHeads, inputs: DeltaInputs) -> Self {
        let (width, values) = (heads.width(), heads.value_width());
        let behind = width + values;
        let one = |range: Range<i32>| Columns::new(vec![range]);
        if inputs == DeltaInputs::ByKind {
            let gates = one(behind..behind + 2 * heads.values);
            return Self { qkv: one(0..width), z: one(width..behind), gates };
        }
        // Of each head of keys: its query, its key, its values, what these are multiplied by.
        let shared = heads.values / heads.keys;
        let own = [heads.key_dim, heads.key_dim, shared * heads.value_dim, shared * heads.value_dim];
        let all: i32 = own.iter().sum();
        let of = |kind: usize| {
            let first = own[..kind].iter().sum::<i32>();
            (0..heads.keys).map(move |head| head * all + first..head * all + first + own[kind])
        };
        let gates = |first: i32| {
            let first = behind + first * shared;
            (0..heads.keys).map(move |head| first + 2 * head * shared..first + (2 * head + 1) * shared)
        };
        Self {
            qkv: Columns::new((0..3).flat_map(of).collect()),
            z: Columns::new(of(3).collect()),
            gates: Columns::new((0..2).flat_map(gates).collect()),
        }
    }
}

/// Divides vectors of `dim` components by their length, and multiplies them by `factor`.
fn unit_length(dim: i32, factor: f32, backend: Backend) -> Result<Normalization, ModelError> {
    // An RMS norm divides by the root of the mean of squares, not of their sum.
    let scale = (dim as f32).sqrt().recip();
    let weight = Array::from_slice(&vec![factor * scale; dim.unsigned_abs() as usize], &[dim]);
    Normalization::new(backend, NormParams::rms(EPS / dim as f32), &weight, None)
}
