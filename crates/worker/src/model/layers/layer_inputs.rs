//! What layers are told of a token beside the residual stream: each a part of another embedding, and of a projection of the
//! first one.

use std::iter;

use mlx_rs::{Array, error::Exception};

use super::{
    Embedding, FusedLinear, ModelError, NormParams, Normalization, Weights, linear::OutputLinear, load_matrix,
};
use crate::backend::{Activation, Backend, Columns, Gated, Rowwise};

/// Sizes of the other embedding.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct LayerInputsPlan {
    /// Tokens that it has rows for.
    pub(in crate::model) vocab: i32,
    /// Components of a layer's part.
    pub(in crate::model) width: i32,
}

/// Of all layers.
pub(super) struct LayerInputs {
    /// Times the root of half the width.
    embedding: Embedding,
    projection: FusedLinear,
    norm: Normalization,
    layers: i32,
    backend: Backend,
}

/// `x + after(projection(gelu(gate(x)) * input))` in one layer.
pub(super) struct LayerInput {
    /// The layer's part of the inputs.
    columns: Columns,
    gate: FusedLinear,
    projection: OutputLinear,
    backend: Backend,
}

impl LayerInputs {
    /// Takes `model.embed_tokens_per_layer` and what belongs to the projection.
    pub(super) fn load(
        weights: &mut Weights<'_>,
        plan: LayerInputsPlan,
        [layers, hidden]: [i32; 2],
        norm: NormParams,
    ) -> Result<Self, ModelError> {
        let all = layers * plan.width;
        // Both parts are divided by the root of 2, since they are added.
        let factor = (f64::from(plan.width) / 2.0).sqrt() as f32;
        let shape = [plan.vocab, all];
        let embedding = Embedding::load(weights, "model.embed_tokens_per_layer", shape, factor)?;
        let projection = load_matrix(weights, "model.per_layer_model_projection", [all, hidden], false)?;
        // What is normalized was divided by the root of the hidden size, which then makes no difference but to this.
        let norm = NormParams { eps: norm.eps * hidden as f32, ..norm };
        let norm = Normalization::load(weights, "model.per_layer_projection_norm", plan.width, norm)?;
        let projection = FusedLinear::new(None, vec![projection], weights);
        Ok(Self { embedding, projection, norm, layers, backend: weights.backend() })
    }

    /// `[tokens, layers * width]` of `tokens`, uint32 `[tokens]`, and their embedding `x`; lazy.
    pub(super) fn of(&self, tokens: &Array, x: &Array) -> Result<Array, Exception> {
        self.backend.rowwise(&Rowwise {
            norms: &[(&self.norm.norm, self.layers)],
            factor: std::f32::consts::FRAC_1_SQRT_2,
            residual: Some(&self.embedding.lookup(tokens)?),
            ..Rowwise::of(&self.projection.forward(x, None)?)
        })
    }
}

impl LayerInput {
    /// Takes `<name>.per_layer_input_gate` and so on; `layer` says which part of the inputs is the layer's.
    pub(super) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        (layer, width): (usize, i32),
        (hidden, norm): (i32, NormParams),
    ) -> Result<Self, ModelError> {
        let part = |part: &str| format!("{name}.{part}");
        let first = layer as i32 * width;
        let gate = load_matrix(weights, &part("per_layer_input_gate"), [width, hidden], false)?;
        let projection = load_matrix(weights, &part("per_layer_projection"), [hidden, width], false)?;
        let after = Normalization::load(weights, &part("post_per_layer_input_norm"), hidden, norm)?;
        Ok(Self {
            columns: Columns::new(iter::once(first..first + width).collect()),
            gate: FusedLinear::new(None, vec![gate], weights),
            projection: OutputLinear::new(projection, Some(after), 1.0, weights),
            backend: weights.backend(),
        })
    }

    /// `x` and the result `[tokens, hidden]`, of the inputs of all layers; lazy.
    pub(super) fn forward(&self, x: &Array, inputs: &Array) -> Result<Array, Exception> {
        let (input, gate) = (self.backend.columns(inputs, &self.columns)?, self.gate.forward(x, None)?);
        let activation = Activation::GeluTanh;
        let gated = self.backend.gated(&Gated { x: &input, gate: &gate, activation, residual: None })?;
        self.projection.forward(&gated, x)
    }
}
