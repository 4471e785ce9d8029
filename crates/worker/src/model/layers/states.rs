//! What layers keep of a sequence beside keys and values, and the kernels of their convolutions.

use mlx_rs::Array;

use super::{ModelError, Weights};
use crate::backend::StateGeometry;

/// The parts of a state, as layers ask for them.
#[derive(Debug, Default)]
pub(in crate::model) struct StateParts {
    geometry: StateGeometry,
}

/// Of a convolution.
pub(super) struct Kernel {
    /// `[channels, taps]`.
    pub(super) weight: Array,
    /// `[channels]`.
    pub(super) bias: Option<Array>,
}

impl StateParts {
    /// One more part, of this shape. Returns its number.
    pub(super) fn add(&mut self, shape: Vec<i32>) -> usize {
        self.geometry.parts.push(shape);
        self.geometry.parts.len() - 1
    }

    /// All of them.
    pub(super) fn finish(self) -> StateGeometry {
        self.geometry
    }
}

/// Takes `<name>.weight` of a convolution of each channel by itself, and its bias. Transformers puts the channels' number of
/// inputs, which is 1, before the taps, and mlx-lm behind them.
pub(super) fn load_kernel(
    weights: &mut Weights<'_>,
    name: &str,
    [channels, taps]: [i32; 2],
    bias: bool,
) -> Result<Kernel, ModelError> {
    let weight = format!("{name}.weight");
    let shape = if is_of_transformers(weights, name) { [channels, 1, taps] } else { [channels, taps, 1] };
    let weight = weights.take_float(&weight, &shape)?.reshape(&[channels, taps])?;
    let bias = bias.then(|| weights.take_float(&format!("{name}.bias"), &[channels])).transpose()?;
    Ok(Kernel { weight, bias })
}

/// Whether the weight of a convolution lies as transformers has it.
pub(in crate::model) fn is_of_transformers(weights: &Weights<'_>, name: &str) -> bool {
    matches!(weights.shape(&format!("{name}.weight")), Some([_, 1, taps]) if *taps != 1)
}
