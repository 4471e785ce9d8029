//! Grouped-query attention with a residual connection.

use mlx_rs::{Array, error::Exception};

use super::{FusedLinear, ModelError, SublayerNorms, Weights, linear::OutputLinear, load_matrix};
use crate::backend::{AttentionSpec, Heads, StepMemory};

/// `x + after(attention(before(x)))`.
pub(in crate::model) struct Attention {
    /// Normalization, then queries, keys and values.
    qkv_proj: FusedLinear,
    o_proj: OutputLinear,
    spec: AttentionSpec,
    /// Which of the model's layers it is.
    layer: usize,
}

/// What [`Attention::load`] needs beside names.
pub(in crate::model) struct AttentionParams {
    pub(in crate::model) spec: AttentionSpec,
    /// Which of the model's layers it is: keys and values are kept by layer.
    pub(in crate::model) layer: usize,
    pub(in crate::model) hidden_size: i32,
    /// Whether queries, keys and values have biases.
    pub(in crate::model) qkv_bias: bool,
    /// Whether the output has a bias.
    pub(in crate::model) output_bias: bool,
}

impl Attention {
    /// Takes `<name>.q_proj` and so on.
    pub(in crate::model) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        params: AttentionParams,
        norms: SublayerNorms,
    ) -> Result<Self, ModelError> {
        let AttentionParams { spec, layer, hidden_size, qkv_bias, output_bias } = params;
        let Heads { queries, kv, dim } = spec.heads;
        let mut load = |part: &str, shape, bias| load_matrix(weights, &format!("{name}.{part}"), shape, bias);
        let qkv = vec![
            load("q_proj", [queries * dim, hidden_size], qkv_bias)?,
            load("k_proj", [kv * dim, hidden_size], qkv_bias)?,
            load("v_proj", [kv * dim, hidden_size], qkv_bias)?,
        ];
        let output = load("o_proj", [hidden_size, queries * dim], output_bias)?;
        Ok(Self {
            qkv_proj: FusedLinear::new(norms.before, qkv, weights),
            o_proj: OutputLinear::new(output, norms.after, weights),
            spec,
            layer,
        })
    }

    /// What distinguishes it from other layers' attention.
    pub(in crate::model) fn spec(&self) -> &AttentionSpec {
        &self.spec
    }

    /// `x` and the result: `[tokens, hidden]`. Appends the tokens' keys and values; lazy.
    pub(in crate::model) fn forward(&self, x: &Array, step: &StepMemory<'_>) -> Result<Array, Exception> {
        let qkv = self.qkv_proj.forward(x, None)?;
        self.o_proj.forward(&step.attend(&self.spec, self.layer, &qkv)?, x)
    }
}
