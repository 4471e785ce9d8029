//! Gated feed-forward network with a residual connection.

use mlx_rs::{Array, error::Exception};

use super::{
    FusedLinear, ModelError, SublayerNorms, Weights, linear::OutputLinear, load_matrices, load_matrix,
};
use crate::backend::Gate;

/// `residual + factor * after(down(activation(gate(n)) * up(n)))` with `n = before(x)`.
pub(in crate::model) struct Mlp {
    /// Normalization, then `activation(gate) * up`.
    gate_up_proj: FusedLinear,
    down_proj: OutputLinear,
}

/// What [`Mlp::load`] needs beside names.
pub(in crate::model) struct MlpParams {
    pub(in crate::model) hidden_size: i32,
    pub(in crate::model) intermediate_size: i32,
    /// Whether the matrices have biases.
    pub(in crate::model) bias: bool,
    pub(in crate::model) gate: Gate,
    /// Whether gate and up are stored as one matrix.
    pub(in crate::model) fused: bool,
    /// Of what is added to the residual stream.
    pub(in crate::model) residual_factor: f32,
    /// Names of gate, up and down, where each is stored by itself.
    pub(in crate::model) parts: [&'static str; 3],
}

impl Mlp {
    /// Takes `<name>.gate_proj` and so on, or `<name>.gate_up_proj`.
    pub(in crate::model) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        params: &MlpParams,
        norms: SublayerNorms,
    ) -> Result<Self, ModelError> {
        let (hidden, inner) = (params.hidden_size, params.intermediate_size);
        let part = |part: &str| format!("{name}.{part}");
        let gate_up = if params.fused {
            load_matrices(weights, &part("gate_up_proj"), (&[inner, inner], hidden), params.bias)?
        } else {
            let mut load = |which: &str| load_matrix(weights, &part(which), [inner, hidden], params.bias);
            vec![load(params.parts[0])?, load(params.parts[1])?]
        };
        let down = load_matrix(weights, &part(params.parts[2]), [hidden, inner], params.bias)?;
        Ok(Self {
            gate_up_proj: FusedLinear::gated(norms.before, gate_up, params.gate, weights),
            down_proj: OutputLinear::new(down, norms.after, params.residual_factor, weights),
        })
    }

    /// `down(activation(gate(x)) * up(x))` alone: `[tokens, hidden]`; lazy.
    pub(super) fn product(&self, x: &Array) -> Result<Array, Exception> {
        self.down_proj.product(&self.gate_up_proj.forward(x, None)?)
    }

    /// `x`, `residual` (which mostly is `x`) and the result: `[tokens, hidden]`; lazy.
    pub(in crate::model) fn forward(&self, x: &Array, residual: &Array) -> Result<Array, Exception> {
        self.down_proj.forward(&self.gate_up_proj.forward(x, None)?, residual)
    }
}
