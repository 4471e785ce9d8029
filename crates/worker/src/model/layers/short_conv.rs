//! A short convolution in place of attention, with a residual connection.

use mlx_rs::{Array, error::Exception};

use super::{
    FusedLinear, ModelError, Normalization, StateParts, Weights, linear::OutputLinear, load_kernel,
    load_matrix,
};
use crate::backend::{Convolution, ConvolutionForm, StepMemory};

/// What [`ShortConv::load`] needs beside names.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct ShortConvPlan {
    /// Tokens that an output depends on.
    pub(in crate::model) taps: i32,
    /// Whether the matrices and the convolution have biases.
    pub(in crate::model) bias: bool,
}

/// `residual + out(c * conv(b * x))` with `b`, `c` and `x` made of `before(x)`.
pub(in crate::model) struct ShortConv {
    /// Normalization, then `b`, `c` and `x`.
    in_proj: FusedLinear,
    convolution: Convolution,
    out_proj: OutputLinear,
}

impl ShortConv {
    /// Takes `<name>.in_proj`, `<name>.conv` and `<name>.out_proj`.
    pub(in crate::model) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        (plan, hidden): (ShortConvPlan, i32),
        before: Option<Normalization>,
        states: &mut StateParts,
    ) -> Result<Self, ModelError> {
        let part = |part: &str| format!("{name}.{part}");
        let in_proj = load_matrix(weights, &part("in_proj"), [3 * hidden, hidden], plan.bias)?;
        let kernel = load_kernel(weights, &part("conv"), [hidden, plan.taps], plan.bias)?;
        let out_proj = load_matrix(weights, &part("out_proj"), [hidden, hidden], plan.bias)?;
        let state = states.add(vec![plan.taps - 1, hidden]);
        let (weight, bias) = (&kernel.weight, kernel.bias.as_ref());
        let convolution = weights.backend().convolution(weight, bias, ConvolutionForm::Gated, state)?;
        Ok(Self {
            in_proj: FusedLinear::new(before, vec![in_proj], weights),
            convolution,
            out_proj: OutputLinear::new(out_proj, None, 1.0, weights),
        })
    }

    /// `x` and the result: `[tokens, hidden]`; lazy. Appends to the rows' states.
    pub(in crate::model) fn forward(&self, x: &Array, step: &StepMemory<'_>) -> Result<Array, Exception> {
        let inputs = self.in_proj.forward(x, None)?;
        self.out_proj.forward(&step.convolve(&self.convolution, &inputs)?, x)
    }
}
