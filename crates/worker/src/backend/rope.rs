//! Rotary position embedding: rotates pairs of a head's components by angles that grow with the position.

use std::cell::{Ref, RefCell};

use mlx_rs::Array;

/// The table of angles grows by this many positions at least.
const TABLE_GROWTH: usize = 1024;

/// A rotation, in the forms that kernels take.
#[derive(Debug)]
pub(crate) struct Rope {
    /// Whether pairs are neighbours; otherwise they are half of the rotated components apart.
    traditional: bool,
    /// Radians by which each pair turns from one position to the next.
    inv_freq: InvFreq,
    /// Positions of the model's context.
    context: usize,
    /// Factor of the rotated components.
    gain: f32,
    table: RefCell<Table>,
}

/// Inverse frequencies, one for each pair of components. Components beyond the pairs are not rotated.
#[derive(Debug)]
struct InvFreq {
    values: Vec<f64>,
    /// Their reciprocals as MLX's operation takes them, float32 `[pairs]`.
    reciprocals: Array,
}

/// Cosines and sines of the first positions: float32 `[positions, pairs]`.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) cos: Array,
    pub(super) sin: Array,
}

impl Rope {
    /// Of the angles by which each pair turns from one position to the next, in radians; `context` is how many positions
    /// there can be.
    pub(crate) fn new(inv_freq: Vec<f64>, traditional: bool, context: usize) -> Self {
        let table = RefCell::new(Table::new(&inv_freq, 0, 1.0));
        Self { traditional, inv_freq: InvFreq::new(inv_freq), context, gain: 1.0, table }
    }

    /// The same with a factor of all components that are rotated.
    pub(crate) fn with_gain(self, gain: f64) -> Self {
        Self { gain: gain as f32, ..self }
    }

    /// Factor of the rotated components.
    pub(super) fn gain(&self) -> f32 {
        self.gain
    }

    /// Whether pairs are neighbours.
    pub(super) fn traditional(&self) -> bool {
        self.traditional
    }

    /// How many components of a head are rotated, the first ones.
    pub(super) fn dims(&self) -> i32 {
        2 * self.inv_freq.values.len() as i32
    }

    /// Positions in which each pair turns by one radian: float32 `[pairs]`.
    pub(super) fn reciprocals(&self) -> &Array {
        &self.inv_freq.reciprocals
    }

    /// Cosines and sines of at least the first `positions` positions.
    pub(super) fn table(&self, positions: usize) -> Ref<'_, Table> {
        let old = self.table.borrow().positions();
        if old < positions {
            // At least doubled, so that a growing sequence costs each position a constant number of computations.
            let grown =
                positions.next_multiple_of(TABLE_GROWTH).max(2 * old).min(self.context.max(positions));
            *self.table.borrow_mut() = Table::new(&self.inv_freq.values, grown, f64::from(self.gain));
        }
        self.table.borrow()
    }
}

impl InvFreq {
    fn new(values: Vec<f64>) -> Self {
        let reciprocals: Vec<f32> = values.iter().map(|value| value.recip() as f32).collect();
        Self { values, reciprocals: Array::from_slice(&reciprocals, &[reciprocals.len() as i32]) }
    }
}

impl Table {
    /// The angles are computed in float64: in float32 those of late positions would be off by more than a rounding.
    /// Cosines and sines are multiplied by `gain`.
    pub(super) fn new(inv_freq: &[f64], positions: usize, gain: f64) -> Self {
        let mut cos = Vec::with_capacity(positions * inv_freq.len());
        let mut sin = Vec::with_capacity(cos.capacity());
        for position in 0..positions {
            for inv_freq in inv_freq {
                let (s, c) = (position as f64 * inv_freq).sin_cos();
                cos.push((c * gain) as f32);
                sin.push((s * gain) as f32);
            }
        }
        let shape = [positions as i32, inv_freq.len() as i32];
        Self { cos: Array::from_slice(&cos, &shape), sin: Array::from_slice(&sin, &shape) }
    }

    fn positions(&self) -> usize {
        self.cos.dim(0).unsigned_abs() as usize
    }
}

#[cfg(test)]
mod tests;
