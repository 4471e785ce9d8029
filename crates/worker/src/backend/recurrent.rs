//! Layers that keep a state of each sequence, as they are computed.

use std::ops::Range;

use mlx_rs::{Array, Dtype, error::Exception, transforms::eval};

use super::Backend;

/// What all layers keep of a sequence: parts of these shapes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct StateGeometry {
    pub(crate) parts: Vec<Vec<i32>>,
}

/// States of one row of a step, by their numbers.
#[derive(Debug, Clone)]
pub(super) struct RowStates {
    pub(super) new_tokens: i32,
    /// `None`: the sequence begins.
    pub(super) from: Option<i32>,
    pub(super) to: i32,
    /// Behind so many of the row's tokens, in order.
    pub(super) snapshots: Vec<(i32, i32)>,
}

/// A causal convolution of each channel by itself. Its state is the last inputs.
#[derive(Debug, Clone)]
pub(crate) struct Convolution {
    /// `[taps, channels]`, the oldest input's first; in the type of activations.
    pub(super) weight: Array,
    /// `[channels]`, in that type.
    pub(super) bias: Option<Array>,
    pub(super) form: ConvolutionForm,
    /// Which part of a state is its own.
    pub(super) part: usize,
}

/// What stands around a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConvolutionForm {
    /// `x sigmoid(x)` of the sum.
    Silu,
    /// An input has three parts: the product of the first and the last goes in, and what comes out is multiplied by the one
    /// between.
    Gated,
}

/// Sizes of a gated delta rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeltaHeads {
    /// Of queries and of keys.
    pub(crate) keys: i32,
    /// Of values; a multiple of the former.
    pub(crate) values: i32,
    pub(crate) key_dim: i32,
    pub(crate) value_dim: i32,
}

/// The gated delta rule. Its state is a matrix for each head of values.
#[derive(Debug, Clone)]
pub(crate) struct GatedDelta {
    pub(super) heads: DeltaHeads,
    /// float32 `[values]`: logarithms of the rates of fading.
    pub(super) log_rates: Array,
    /// float32 `[values]`, of the gates that fade.
    pub(super) biases: Array,
    pub(super) part: usize,
}

/// Some columns of a matrix, in another order.
#[derive(Debug, Clone)]
pub(crate) struct Columns {
    pub(super) pieces: Vec<Range<i32>>,
    /// uint32.
    pub(super) indices: Array,
}

/// What a gate goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    Silu,
    Sigmoid,
    /// GELU in its approximation with a hyperbolic tangent.
    GeluTanh,
}

/// `y = residual + activation(gate) * x`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gated<'a> {
    /// `[tokens, width]`.
    pub(crate) x: &'a Array,
    /// Like `x`, or `[tokens, 1]`.
    pub(crate) gate: &'a Array,
    pub(crate) activation: Activation,
    /// Like `x`.
    pub(crate) residual: Option<&'a Array>,
}

impl StateGeometry {
    /// Numbers of a state.
    pub(crate) fn values(&self) -> u64 {
        self.parts.iter().fold(0, |all: u64, part| all.saturating_add(values(part)))
    }

    /// Where in a state each part begins, if they lie one behind the other.
    pub(super) fn offsets(&self) -> Vec<usize> {
        let mut next = 0;
        let offset = |part: &Vec<i32>| {
            let begin = next;
            next += values(part);
            begin as usize
        };
        self.parts.iter().map(offset).collect()
    }
}

fn values(part: &[i32]) -> u64 {
    part.iter().fold(1, |all: u64, &dim| all.saturating_mul(u64::from(dim.unsigned_abs())))
}

impl DeltaHeads {
    /// Components of a token's queries, which are as many as its keys'.
    pub(crate) fn key_width(self) -> i32 {
        self.keys * self.key_dim
    }

    /// Components of a token's values.
    pub(crate) fn value_width(self) -> i32 {
        self.values * self.value_dim
    }

    /// Of queries, keys and values together.
    pub(crate) fn width(self) -> i32 {
        2 * self.key_width() + self.value_width()
    }
}

impl Columns {
    /// Those of `pieces`, one behind the other.
    pub(crate) fn new(pieces: Vec<Range<i32>>) -> Self {
        let indices: Vec<u32> =
            pieces.iter().flat_map(|piece| piece.start as u32..piece.end as u32).collect();
        Self { pieces, indices: Array::from_slice(&indices, &[indices.len() as i32]) }
    }
}

impl Backend {
    /// Takes a convolution's weight `[channels, taps]` and bias `[channels]` as they are stored.
    pub(crate) fn convolution(
        self,
        weight: &Array,
        bias: Option<&Array>,
        form: ConvolutionForm,
        part: usize,
    ) -> Result<Convolution, Exception> {
        let (channels, taps) = (weight.dim(0), weight.dim(1));
        // A copy: each tap's weights one behind the other.
        let weight = weight.as_dtype(self.dtype)?.t().reshape(&[-1])?.reshape(&[taps, channels])?;
        let bias = bias.map(|bias| bias.as_dtype(self.dtype)).transpose()?;
        eval([&weight])?;
        Ok(Convolution { weight, bias, form, part })
    }

    /// Takes the rates' logarithms and the biases `[values]` of a gated delta rule as they are stored.
    pub(crate) fn delta_rule(
        self,
        heads: DeltaHeads,
        log_rates: &Array,
        biases: &Array,
        part: usize,
    ) -> Result<GatedDelta, Exception> {
        let wide = |array: &Array| array.as_dtype(Dtype::Float32);
        Ok(GatedDelta { heads, log_rates: wide(log_rates)?, biases: wide(biases)?, part })
    }
}
