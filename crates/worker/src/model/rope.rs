//! Rotary position embedding.

use std::f64::consts::TAU;

use mlx_rs::{Array, error::Exception, fast::rope_dynamic};
use serde::Deserialize;

use super::ModelError;

/// `rope_scaling` (or `rope_parameters`) of a configuration.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct RopeScaling {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    /// In newer configurations the base stands here.
    pub(super) rope_theta: Option<f32>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

/// Rotates pairs of a head's components by angles that grow with the position.
pub(super) struct Rope {
    head_dim: i32,
    /// Whether pairs are neighbours; otherwise they are half a head apart.
    traditional: bool,
    /// Factor of the position.
    scale: f32,
    wavelengths: Wavelengths,
}

enum Wavelengths {
    /// Powers of this base.
    Base(f32),
    /// One for each pair, divided by 2π: float32 `[head_dim / 2]`.
    Each(Array),
}

impl Rope {
    pub(super) fn new(
        head_dim: i32,
        traditional: bool,
        base: f32,
        scaling: Option<&RopeScaling>,
    ) -> Result<Self, ModelError> {
        let mut rope = Self { head_dim, traditional, scale: 1.0, wavelengths: Wavelengths::Base(base) };
        let Some(scaling) = scaling else { return Ok(rope) };
        match scaling.rope_type.as_deref().unwrap_or("default") {
            "default" => {}
            "linear" => rope.scale = (1.0 / required("rope_scaling.factor", scaling.factor)?) as f32,
            "llama3" => rope.wavelengths = Wavelengths::Each(llama3(head_dim, base, scaling)?),
            other => {
                return Err(ModelError::UnsupportedSetting {
                    setting: "rope_scaling.rope_type",
                    value: format!("`{other}`"),
                });
            }
        }
        Ok(rope)
    }

    /// Rotates `[tokens, heads, head_dim]`, each token by its own position (int32 `[tokens]`).
    pub(super) fn apply(&self, x: &Array, positions: &Array) -> Result<Array, Exception> {
        let shape = [x.dim(0), x.dim(1), x.dim(2)];
        // MLX takes one position for each first index: each token is a batch of its own.
        let apart = x.reshape(&[shape[0], shape[1], 1, shape[2]])?;
        let (base, freqs) = match &self.wavelengths {
            Wavelengths::Base(base) => (Some(*base), None),
            Wavelengths::Each(each) => (None, Some(each)),
        };
        rope_dynamic(&apart, self.head_dim, self.traditional, base, self.scale, positions, freqs)?
            .reshape(&shape)
    }
}

/// Llama 3's stretched context: long wavelengths by `factor`, short ones not at all, and a ramp
/// between. Returns wavelengths divided by 2π.
fn llama3(head_dim: i32, base: f32, scaling: &RopeScaling) -> Result<Array, ModelError> {
    let factor = required("rope_scaling.factor", scaling.factor)?;
    let low = scaling.low_freq_factor.unwrap_or(1.0);
    let high = scaling.high_freq_factor.unwrap_or(4.0);
    let old_context = scaling.original_max_position_embeddings.unwrap_or(8192.0);
    let stretch = |pair: i32| {
        let plain = f64::from(base).powf(f64::from(2 * pair) / f64::from(head_dim));
        let turns = old_context / (TAU * plain); // full turns within the old context
        if turns < low {
            plain * factor
        } else if turns > high {
            plain
        } else {
            let smooth = (turns - low) / (high - low);
            plain / ((1.0 - smooth) / factor + smooth)
        }
    };
    let pairs = head_dim / 2;
    let wavelengths: Vec<f32> = (0..pairs).map(|pair| stretch(pair) as f32).collect();
    Ok(Array::from_slice(&wavelengths, &[pairs]))
}

fn required(setting: &'static str, value: Option<f64>) -> Result<f64, ModelError> {
    match value {
        Some(value) if value > 0.0 => Ok(value),
        Some(value) => Err(ModelError::UnsupportedSetting { setting, value: value.to_string() }),
        None => Err(ModelError::UnsupportedSetting { setting, value: "nothing".to_owned() }),
    }
}
