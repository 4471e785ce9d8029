//! Grouped-query attention with a residual connection.

use std::iter;

use mlx_rs::{Array, Dtype, error::Exception};

use super::{
    FusedLinear, ModelError, NormParams, QkNorm, SublayerNorms, Weights, linear::OutputLinear, load_matrix,
    norm::QkNorms,
};
use crate::backend::{Activation, AttentionSpec, Backend, Columns, Gated, Heads, StepMemory};

/// `residual + factor * after(attention(before(x)))`.
pub(in crate::model) struct Attention {
    /// Normalization, then queries, keys and values.
    qkv_proj: FusedLinear,
    /// Where each head of queries has a gate behind it.
    gate: Option<OutputGate>,
    qk_norms: Option<QkNorms>,
    o_proj: OutputLinear,
    spec: AttentionSpec,
    /// Where its keys and values are.
    layer: usize,
    backend: Backend,
}

/// What attention's results are multiplied by: sigmoid of it.
struct OutputGate {
    /// Queries, keys and values without it.
    qkv: Columns,
    own: Columns,
}

/// What [`Attention::load`] needs beside names.
pub(in crate::model) struct AttentionParams {
    pub(in crate::model) spec: AttentionSpec,
    /// Which of the layers with keys and values of their own it is, or borrows from.
    pub(in crate::model) layer: usize,
    pub(in crate::model) hidden_size: i32,
    /// Whether queries, keys and values have biases.
    pub(in crate::model) qkv_bias: bool,
    /// Whether the output has a bias.
    pub(in crate::model) output_bias: bool,
    /// Whether each head of queries has a sink.
    pub(in crate::model) sinks: bool,
    /// Whether queries, keys and values are stored as one matrix; not if keys and values are borrowed.
    pub(in crate::model) fused: bool,
    /// Whether the matrix of keys is that of values, too.
    pub(in crate::model) values_are_keys: bool,
    /// Whether each head of queries has a gate of its results behind it; not if they are fused.
    pub(in crate::model) gated: bool,
    /// Normalization of queries and keys before they are rotated.
    pub(in crate::model) qk_norm: Option<(QkNorm, NormParams)>,
    /// Of what is added to the residual stream.
    pub(in crate::model) residual_factor: f32,
    /// Names of the output's matrix, and of the normalizations of queries and keys.
    pub(in crate::model) output_name: &'static str,
    pub(in crate::model) norm_names: [&'static str; 2],
}

impl Attention {
    /// Takes `<name>.q_proj` and so on, or `<name>.qkv_proj`.
    pub(in crate::model) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        params: AttentionParams,
        norms: SublayerNorms,
    ) -> Result<Self, ModelError> {
        let AttentionParams { mut spec, layer, hidden_size, qkv_bias, .. } = params;
        let Heads { queries, kv, dim } = spec.heads;
        let widths = [queries * dim, kv * dim, kv * dim];
        let part = |part: &str| format!("{name}.{part}");
        let qkv = if params.fused {
            let shape = [widths.iter().sum(), hidden_size];
            vec![load_matrix(weights, &part("qkv_proj"), shape, qkv_bias)?]
        } else {
            let mut load =
                |which: &str, width| load_matrix(weights, &part(which), [width, hidden_size], qkv_bias);
            let queries = load("q_proj", if params.gated { 2 * widths[0] } else { widths[0] })?;
            if spec.borrows() {
                vec![queries]
            } else {
                let keys = load("k_proj", widths[1])?;
                let values = if params.values_are_keys { keys.clone() } else { load("v_proj", widths[2])? };
                vec![queries, keys, values]
            }
        };
        if params.sinks {
            let sinks = weights.take_float(&part("sinks"), &[queries])?;
            spec.sinks = Some(sinks.as_dtype(Dtype::Float32)?);
        }
        let qk_norms = params.qk_norm.map(|norm| {
            let names = params.norm_names.map(part);
            QkNorms::load(weights, &names, (spec.heads, !spec.borrows()), norm)
        });
        let output = load_matrix(
            weights,
            &part(params.output_name),
            [hidden_size, queries * dim],
            params.output_bias,
        )?;
        Ok(Self {
            qkv_proj: FusedLinear::new(norms.before, qkv, weights),
            gate: params.gated.then(|| OutputGate::new(spec.heads)),
            qk_norms: qk_norms.transpose()?,
            o_proj: OutputLinear::new(output, norms.after, params.residual_factor, weights),
            spec,
            layer,
            backend: weights.backend(),
        })
    }

    /// What distinguishes it from other layers' attention.
    pub(in crate::model) fn spec(&self) -> &AttentionSpec {
        &self.spec
    }

    /// `x`, `residual` (which mostly is `x`) and the result: `[tokens, hidden]`. Appends the tokens' keys and values; lazy.
    pub(in crate::model) fn forward(
        &self,
        x: &Array,
        residual: &Array,
        step: &StepMemory<'_>,
    ) -> Result<Array, Exception> {
        let inputs = self.qkv_proj.forward(x, None)?;
        let mut qkv = match &self.gate {
            Some(gate) => self.backend.columns(&inputs, &gate.qkv)?,
            None => inputs.clone(),
        };
        if let Some(norms) = &self.qk_norms {
            qkv = norms.forward(&qkv)?;
        }
        let mut attended = step.attend(&self.spec, self.layer, &qkv)?;
        if let Some(gate) = &self.gate {
            let gate = self.backend.columns(&inputs, &gate.own)?;
            let (x, activation) = (&attended, Activation::Sigmoid);
            attended = self.backend.gated(&Gated { x, gate: &gate, activation, residual: None })?;
        }
        self.o_proj.forward(&attended, residual)
    }
}

impl OutputGate {
    fn new(Heads { queries, kv, dim }: Heads) -> Self {
        let of =
            |which: i32| (0..queries).map(move |head| (2 * head + which) * dim..(2 * head + which + 1) * dim);
        let behind = 2 * queries * dim;
        let qkv = of(0).chain(iter::once(behind..behind + 2 * kv * dim));
        Self { qkv: Columns::new(qkv.collect()), own: Columns::new(of(1).collect()) }
    }
}
