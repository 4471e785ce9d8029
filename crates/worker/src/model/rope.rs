//! Rotary position embedding.

use std::{cell::RefCell, f64::consts::TAU};

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
    table: RefCell<Option<Table>>,
}

/// Cosines and sines of all positions so far, for kernels that look them up: float32 `[positions, head_dim / 2]`.
struct Table {
    cos: Array,
    sin: Array,
}

/// The table grows by so many positions at least.
const TABLE_GROWTH: usize = 1024;

enum Wavelengths {
    /// Powers of this base.
    Base(f32),
    /// One for each pair, divided by 2π; as an array float32 `[head_dim / 2]`.
    Each { values: Vec<f64>, array: Array },
}

impl Rope {
    pub(super) fn new(
        head_dim: i32,
        traditional: bool,
        base: f32,
        scaling: Option<&RopeScaling>,
    ) -> Result<Self, ModelError> {
        let mut rope = Self {
            head_dim,
            traditional,
            scale: 1.0,
            wavelengths: Wavelengths::Base(base),
            table: RefCell::default(),
        };
        let Some(scaling) = scaling else { return Ok(rope) };
        match scaling.rope_type.as_deref().unwrap_or("default") {
            "default" => {}
            "linear" => rope.scale = (1.0 / required("rope_scaling.factor", scaling.factor)?) as f32,
            "llama3" => rope.wavelengths = llama3(head_dim, base, scaling)?,
            other => {
                return Err(ModelError::UnsupportedSetting {
                    setting: "rope_scaling.rope_type",
                    value: format!("`{other}`"),
                });
            }
        }
        Ok(rope)
    }

    /// Whether pairs are neighbours.
    pub(super) fn traditional(&self) -> bool {
        self.traditional
    }

    /// Cosines and sines of at least the first `positions` positions.
    pub(super) fn table(&self, positions: usize) -> (Array, Array) {
        let mut table = self.table.borrow_mut();
        if let Some(Table { cos, sin }) =
            table.as_ref().filter(|table| table.cos.dim(0) as usize >= positions)
        {
            return (cos.clone(), sin.clone());
        }
        // At least doubled, so that a growing sequence costs each position a constant number of computations.
        let old = table.as_ref().map_or(0, |table| table.cos.dim(0) as usize);
        let made = self.make_table(positions.next_multiple_of(TABLE_GROWTH).max(2 * old));
        let Table { cos, sin } = table.insert(made);
        (cos.clone(), sin.clone())
    }

    fn make_table(&self, positions: usize) -> Table {
        let pairs = self.head_dim / 2;
        let wavelengths: Vec<f64> = match &self.wavelengths {
            Wavelengths::Base(base) => {
                (0..pairs).map(|pair| plain_wavelength(*base, pair, self.head_dim)).collect()
            }
            Wavelengths::Each { values, .. } => values.clone(),
        };
        let mut cos = Vec::with_capacity(positions * wavelengths.len());
        let mut sin = Vec::with_capacity(cos.capacity());
        for position in 0..positions {
            for wavelength in &wavelengths {
                let (s, c) = (position as f64 * f64::from(self.scale) / wavelength).sin_cos();
                cos.push(c as f32);
                sin.push(s as f32);
            }
        }
        let shape = [positions as i32, pairs];
        Table { cos: Array::from_slice(&cos, &shape), sin: Array::from_slice(&sin, &shape) }
    }

    /// Rotates `[tokens, heads, head_dim]`, each token by its own position (int32 `[tokens]`).
    pub(super) fn apply(&self, x: &Array, positions: &Array) -> Result<Array, Exception> {
        let shape = [x.dim(0), x.dim(1), x.dim(2)];
        // MLX takes one position for each first index: each token is a batch of its own.
        let apart = x.reshape(&[shape[0], shape[1], 1, shape[2]])?;
        let (base, freqs) = match &self.wavelengths {
            Wavelengths::Base(base) => (Some(*base), None),
            Wavelengths::Each { array, .. } => (None, Some(array)),
        };
        rope_dynamic(&apart, self.head_dim, self.traditional, base, self.scale, positions, freqs)?
            .reshape(&shape)
    }
}

/// Llama 3's stretched context: long wavelengths by `factor`, short ones not at all, and a ramp
/// between.
fn llama3(head_dim: i32, base: f32, scaling: &RopeScaling) -> Result<Wavelengths, ModelError> {
    let factor = required("rope_scaling.factor", scaling.factor)?;
    let low = scaling.low_freq_factor.unwrap_or(1.0);
    let high = scaling.high_freq_factor.unwrap_or(4.0);
    let old_context = scaling.original_max_position_embeddings.unwrap_or(8192.0);
    let stretch = |pair: i32| {
        let plain = plain_wavelength(base, pair, head_dim);
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
    let values: Vec<f64> = (0..pairs).map(stretch).collect();
    let single: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    Ok(Wavelengths::Each { values, array: Array::from_slice(&single, &[pairs]) })
}

/// Wavelength of a pair of components, divided by 2π, as the embedding defines it.
fn plain_wavelength(base: f32, pair: i32, head_dim: i32) -> f64 {
    f64::from(base).powf(f64::from(2 * pair) / f64::from(head_dim))
}

fn required(setting: &'static str, value: Option<f64>) -> Result<f64, ModelError> {
    match value {
        Some(value) if value > 0.0 => Ok(value),
        Some(value) => Err(ModelError::UnsupportedSetting { setting, value: value.to_string() }),
        None => Err(ModelError::UnsupportedSetting { setting, value: "nothing".to_owned() }),
    }
}
