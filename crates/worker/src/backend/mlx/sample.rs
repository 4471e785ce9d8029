//! The choice of tokens in the graph, so that a device goes on without the host.
//!
//! What is chosen is what the sampler would choose (`crate::sample`): the host draws a number for each row, a function of
//! seed and position, and here it picks the token in which the sum of the weights passes it. Sums and exponentials are
//! MLX's, in float32: another token is chosen where the number is within a rounding of the border between two.
//!
//! Greedy rows take one reduction, others some passes over the vocabulary; top-k, top-p and min-p sort it, which costs the
//! most. None of it has been measured on a GPU.

use mlx_rs::{
    Array, Dtype,
    error::Exception,
    ops::{
        arange, argsort_axis, concatenate,
        indexing::{TryIndexOp, argmax_axis, take_along_axis, take_axis},
        select, zeros_dtype,
    },
};

use super::group::indices;
use crate::sample::Choice;

/// Smaller exponents give a weight of 0, as the sampler has it.
const LOWEST: f32 = -87.0;

/// Tokens of which weights are summed up together.
const BLOCK: i32 = 1024;

/// The largest number below 1.
const BELOW_ONE: f32 = 1.0 - f32::EPSILON / 2.0;

/// What a row's token takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The largest logit.
    Largest,
    /// The weights of all tokens.
    Drawn,
    /// Sorted weights.
    Filtered,
}

/// One token for each row of float32 `[rows, vocab]`: uint32 `[rows]`; lazy. What is not a number counts as impossible.
pub(crate) fn choose(logits: &Array, choices: &[Choice]) -> Result<Array, Exception> {
    let (mut order, mut chosen) = (Vec::with_capacity(choices.len()), Vec::new());
    for kind in [Kind::Largest, Kind::Drawn, Kind::Filtered] {
        let rows: Vec<i32> =
            (0..).zip(choices).filter(|(_, it)| Kind::of(it) == kind).map(|it| it.0).collect();
        if rows.is_empty() {
            continue;
        }
        let of_kind: Vec<Choice> = choices.iter().copied().filter(|it| Kind::of(it) == kind).collect();
        let logits =
            if rows.len() == choices.len() { logits } else { &take_axis(logits, indices(&rows), 0)? };
        chosen.push(Rows { logits, choices: &of_kind }.choose(kind)?);
        order.extend(rows);
    }
    match &chosen[..] {
        [one] => Ok(one.clone()),
        several => take_axis(concatenate(several, 0)?, indices(&places(&order)), 0),
    }
}

/// Where each of `0..order.len()` is in `order`.
fn places(order: &[i32]) -> Vec<i32> {
    let mut places = vec![0; order.len()];
    for (place, &row) in (0..).zip(order) {
        if let Some(of_row) = places.get_mut(row.unsigned_abs() as usize) {
            *of_row = place;
        }
    }
    places
}

/// Rows of one kind.
struct Rows<'a> {
    /// float32 `[rows, vocab]`.
    logits: &'a Array,
    choices: &'a [Choice],
}

impl Kind {
    fn of(choice: &Choice) -> Self {
        if choice.is_greedy() {
            Self::Largest
        } else if choice.is_filtered() {
            Self::Filtered
        } else {
            Self::Drawn
        }
    }
}

impl Rows<'_> {
    fn choose(&self, kind: Kind) -> Result<Array, Exception> {
        let numbers = select(self.logits.is_nan()?, Array::from_f32(f32::NEG_INFINITY), self.logits)?;
        match kind {
            // The first one of equals.
            Kind::Largest => argmax_axis(numbers, 1, false),
            Kind::Drawn => {
                let weights = in_blocks(&self.weights(&numbers)?)?;
                let sums = Sums::of(&weights)?;
                self.pick(&weights, &sums, &sums.total()?)
            }
            Kind::Filtered => self.choose_likely(&numbers),
        }
    }

    /// One of the tokens that top-k, top-p and min-p leave, which are looked at from the most likely one on.
    fn choose_likely(&self, numbers: &Array) -> Result<Array, Exception> {
        // Among equals the lower token comes first where MLX's sort is stable, as it is on the CPU.
        let order = argsort_axis(numbers.negative()?, 1)?;
        let mut weights = in_blocks(&take_along_axis(self.weights(numbers)?, &order, 1)?)?;
        let none = Array::from_f32(0.0);
        let places = weights.dim(1) * BLOCK;
        let ranks = arange::<_, f32>(0, places, None)?.reshape(&[1, -1, BLOCK])?;
        if self.choices.iter().any(|choice| choice.top_k > 0) {
            let all = places.unsigned_abs();
            let ends = self.each(|choice| if choice.top_k > 0 { choice.top_k.min(all) } else { all } as f32);
            weights = select(ranks.lt(&ends)?, &weights, &none)?;
        }
        let sums = Sums::of(&weights)?;
        let shares = self.each(|choice| if choice.top_p < 1.0 { choice.top_p } else { f32::INFINITY });
        let enough = sums.total()?.multiply(&shares)?;
        let before = sums.within.subtract(&weights)?;
        let likely = weights.ge(self.each(|choice| choice.min_p))?;
        let kept = before.lt(enough.subtract(&sums.before)?)?.logical_and(likely)?;
        // The most likely one stays in any case.
        let kept = kept.logical_or(ranks.lt(Array::from_f32(1.0))?)?;
        let sum = select(&kept, sums.within.add(&sums.before)?, &none)?.max_axes(&[1, 2], true)?;
        let rank = self.pick(&select(&kept, &weights, &none)?, &sums, &sum)?;
        take_along_axis(order, rank.expand_dims(1)?, 1)?.reshape(&[-1])
    }

    /// The first place with a weight in which the running sum passes the row's part of `total`, `[rows, 1, 1]`.
    fn pick(&self, weights: &Array, sums: &Sums, total: &Array) -> Result<Array, Exception> {
        let target = total.multiply(self.each(|choice| (choice.quantile as f32).min(BELOW_ONE)))?;
        let passed = sums.within.gt(target.subtract(&sums.before)?)?;
        let passed = passed.logical_and(weights.gt(Array::from_f32(0.0))?)?;
        // No weight is above 1. If rounding lets none pass, it is the likeliest.
        let ranked = select(passed, Array::from_f32(2.0), weights)?;
        argmax_axis(ranked.reshape(&[self.logits.dim(0), -1])?, 1, false)
    }

    /// Each token's probability, relative to that of the most likely one: `[rows, vocab]`.
    fn weights(&self, numbers: &Array) -> Result<Array, Exception> {
        let largest = numbers.max_axis(1, true)?;
        let temperatures = self.each(|choice| choice.temperature).reshape(&[-1, 1])?;
        let exponents = numbers.subtract(&largest)?.divide(temperatures)?;
        let weights = select(exponents.ge(Array::from_f32(LOWEST))?, exponents.exp()?, Array::from_f32(0.0))?;
        // The difference of equal infinities is not 0.
        select(self.logits.eq(&largest)?, Array::from_f32(1.0), weights)
    }

    /// A number for each row: `[rows, 1, 1]`.
    fn each(&self, of: impl Fn(&Choice) -> f32) -> Array {
        let values: Vec<f32> = self.choices.iter().map(of).collect();
        Array::from_slice(&values, &[values.len() as i32, 1, 1])
    }
}

/// Running sums of `[rows, blocks, BLOCK]`. One over all of a large vocabulary would lose its small weights in float32.
struct Sums {
    /// In each block.
    within: Array,
    /// Of the blocks before: `[rows, blocks, 1]`.
    before: Array,
}

impl Sums {
    fn of(weights: &Array) -> Result<Self, Exception> {
        let within = weights.cumsum(2, false, true)?;
        let before = within.try_index((.., .., -1..))?.cumsum(1, false, false)?;
        Ok(Self { within, before })
    }

    /// `[rows, 1, 1]`.
    fn total(&self) -> Result<Array, Exception> {
        let last = |sums: &Array| sums.try_index((.., -1.., -1..));
        last(&self.before)?.add(last(&self.within)?)
    }
}

/// `[rows, blocks, BLOCK]` of `[rows, tokens]`, with zeros behind.
fn in_blocks(weights: &Array) -> Result<Array, Exception> {
    let (rows, tokens) = (weights.dim(0), weights.dim(1));
    let missing = (BLOCK - tokens % BLOCK) % BLOCK;
    let weights = if missing == 0 {
        weights.clone()
    } else {
        concatenate(&[weights, &zeros_dtype(&[rows, missing], Dtype::Float32)?], 1)?
    };
    weights.reshape(&[rows, -1, BLOCK])
}

#[cfg(test)]
mod tests;
