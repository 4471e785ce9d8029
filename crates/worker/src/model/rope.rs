//! Rotary position embedding.

use std::{cell::RefCell, f64::consts::TAU};

use mlx_rs::{Array, error::Exception, fast::rope_dynamic};
/// What the configuration says of rotation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RopeArgs {
    /// Whether pairs are neighbours; otherwise they are half a head apart.
    pub(super) traditional: bool,
    /// Wavelengths are its powers.
    pub(super) base: f32,
    pub(super) scaling: RopeScaling,
}

/// How the context was stretched after the first training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum RopeScaling {
    Plain,
    /// Positions are divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Long wavelengths are, short ones are not, and there is a ramp between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        old_context: f64,
    },
}

/// Rotates pairs of a head's components by angles that grow with the position.
pub(super) struct Rope {
    head_dim: i32,
    /// Whether pairs are neighbours; otherwise they are half a head apart.
    traditional: bool,
    /// Factor of the position.
    scale: f32,
    wavelengths: Wavelengths,
    /// Positions of the model's context.
    context: usize,
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
    /// `context`: how many positions there can be.
    pub(super) fn new(head_dim: i32, args: &RopeArgs, context: i32) -> Self {
        let (scale, wavelengths) = match args.scaling {
            RopeScaling::Plain => (1.0, Wavelengths::Base(args.base)),
            RopeScaling::Linear { factor } => ((1.0 / factor) as f32, Wavelengths::Base(args.base)),
            RopeScaling::Llama3 { .. } => (1.0, Wavelengths::each(args.llama3_wavelengths(head_dim))),
        };
        Self {
            head_dim,
            traditional: args.traditional,
            scale,
            wavelengths,
            context: context.unsigned_abs() as usize,
            table: RefCell::default(),
        }
    }

    /// Whether pairs are neighbours.
    pub(super) fn traditional(&self) -> bool {
        self.traditional
    }

    /// Whether every angle can be computed.
    #[cfg(test)]
    pub(super) fn is_finite(&self) -> bool {
        let wavelengths_are = match &self.wavelengths {
            Wavelengths::Base(base) => {
                let last = plain_wavelength(*base, self.head_dim / 2 - 1, self.head_dim);
                base.is_normal() && last.is_normal() && (last as f32).is_normal()
            }
            Wavelengths::Each { values, .. } => values.iter().all(|value| (*value as f32).is_normal()),
        };
        wavelengths_are && self.scale.is_normal()
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
        let grown = positions.next_multiple_of(TABLE_GROWTH).max(2 * old);
        let made = self.make_table(grown.min(self.context.max(positions)));
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

impl RopeArgs {
    /// Llama 3's stretched wavelengths, divided by 2π, one for each pair of components.
    fn llama3_wavelengths(&self, head_dim: i32) -> Vec<f64> {
        let pairs = (0..head_dim / 2).map(|pair| plain_wavelength(self.base, pair, head_dim));
        let RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, old_context } =
            self.scaling
        else {
            return pairs.collect();
        };
        let stretch = |plain: f64| {
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
        pairs.map(stretch).collect()
    }
}

impl Wavelengths {
    fn each(values: Vec<f64>) -> Self {
        let single: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        let array = Array::from_slice(&single, &[single.len() as i32]);
        Self::Each { values, array }
    }
}

/// Wavelength of a pair of components, divided by 2π, as the embedding defines it.
fn plain_wavelength(base: f32, pair: i32, head_dim: i32) -> f64 {
    f64::from(base).powf(f64::from(2 * pair) / f64::from(head_dim))
}

#[cfg(test)]
mod tests;
