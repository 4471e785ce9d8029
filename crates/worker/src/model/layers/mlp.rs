//! Gated feed-forward network with a residual connection.

use mlx_rs::{Array, error::Exception};

use super::{FusedLinear, ModelError, SublayerNorms, Weights, linear::OutputLinear, load_matrix};

/// `x + after(down(silu(gate(n)) * up(n)))` with `n = before(x)`.
pub(in crate::model) struct Mlp {
    /// Normalization, then `silu(gate) * up`.
    gate_up_proj: FusedLinear,
    down_proj: OutputLinear,
}

/// What [`Mlp::load`] needs beside names.
pub(in crate::model) struct MlpParams {
    pub(in crate::model) hidden_size: i32,
    pub(in crate::model) intermediate_size: i32,
    /// Whether the matrices have biases.
    pub(in crate::model) bias: bool,
}

impl Mlp {
    /// Takes `<name>.gate_proj` and so on.
    pub(in crate::model) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        params: &MlpParams,
        norms: SublayerNorms,
    ) -> Result<Self, ModelError> {
        let (hidden, inner) = (params.hidden_size, params.intermediate_size);
        let mut load =
            |part: &str, shape| load_matrix(weights, &format!("{name}.{part}"), shape, params.bias);
        let (gate, up) = (load("gate_proj", [inner, hidden])?, load("up_proj", [inner, hidden])?);
        let down = load("down_proj", [hidden, inner])?;
        Ok(Self {
            gate_up_proj: FusedLinear::gated(norms.before, gate, up, weights),
            down_proj: OutputLinear::new(down, norms.after, weights),
        })
    }

    /// `x` and the result: `[tokens, hidden]`; lazy.
    pub(in crate::model) fn forward(&self, x: &Array) -> Result<Array, Exception> {
        self.down_proj.forward(&self.gate_up_proj.forward(x, None)?, x)
    }
}
