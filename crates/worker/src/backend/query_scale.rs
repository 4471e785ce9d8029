//! A factor of queries that grows with their position.

use std::cell::{Ref, RefCell};

use mlx_rs::{Array, Dtype, error::Exception};

/// The table grows by this many positions at least.
const TABLE_GROWTH: usize = 1024;

/// `1 + beta ln(1 + floor((position + offset) / period))`.
#[derive(Debug)]
pub(crate) struct QueryScale {
    beta: f64,
    period: f64,
    offset: f64,
    /// float32 `[positions]`: of the first ones.
    table: RefCell<Array>,
}

impl QueryScale {
    /// `period` is in tokens and positive.
    pub(crate) fn new(beta: f64, period: f64, offset: f64) -> Self {
        Self { beta, period, offset, table: RefCell::new(Array::from_slice::<f32>(&[], &[0])) }
    }

    /// In tokens.
    #[cfg(test)]
    pub(super) fn offset(&self) -> f64 {
        self.offset
    }

    fn at(&self, position: usize) -> f64 {
        1.0 + self.beta * ((position as f64 + self.offset) / self.period).floor().ln_1p()
    }

    /// Of at least the first `positions` positions: float32.
    pub(super) fn table(&self, positions: usize) -> Ref<'_, Array> {
        let old = self.table.borrow().size();
        if old < positions {
            let grown = positions.next_multiple_of(TABLE_GROWTH).max(2 * old);
            let values: Vec<f32> = (0..grown).map(|position| self.at(position) as f32).collect();
            *self.table.borrow_mut() = Array::from_slice(&values, &[values.len() as i32]);
        }
        self.table.borrow()
    }

    /// Of `positions`, int32 `[tokens]`, computed with MLX's operations: `dtype` `[tokens, 1, 1, 1]`; lazy.
    pub(super) fn of(&self, positions: &Array, dtype: Dtype) -> Result<Array, Exception> {
        let number = |value: f64| Array::from_f32(value as f32);
        let positions = positions.as_dtype(Dtype::Float32)?.add(number(self.offset))?;
        let periods = positions.divide(number(self.period))?.floor()?;
        let scale = periods.log1p()?.multiply(number(self.beta))?.add(number(1.0))?;
        scale.as_dtype(dtype)?.reshape(&[-1, 1, 1, 1])
    }
}
