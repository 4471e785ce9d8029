//! Locally typical sampling (Meister et al.: Locally typical sampling, 2023).
//!
//! A token is typical if its information, the negative logarithm of its probability, is near that of the tokens on
//! average, which is the entropy. All logarithms of probabilities differ from the scaled logits by the same amount. So that
//! is how near a scaled logit is to their mean, and takes no logarithm.

use super::{
    candidate::Candidate,
    draw::pick,
    lanes,
    weights::{BLOCK, Scale, Weights},
};

/// The first attempt to find the typical tokens takes those that are so near to the mean; each further one twice as much.
const FIRST_DISTANCE: f64 = 0.5;
/// Beyond this distance there are no tokens: weights below e^-87 are 0.
const LARGEST_DISTANCE: f64 = 100.0;

/// Sums of the same weights in another order differ by much less.
const ROUNDING: f64 = 1e-9;

/// Tokens that are typical enough to be drawn.
#[derive(Debug, Default)]
pub(super) struct Typical {
    /// The distance from the mean, negated: the most typical token comes first.
    ranked: Vec<Candidate>,
    /// With their weights.
    kept: Vec<(f32, u32)>,
    products: Vec<f32>,
}

impl Typical {
    /// Keeps of `candidates`, whose values are weights that add up to `total`, those that reach `mass` of it. Returns the sum of
    /// what is kept.
    pub(super) fn keep(
        &mut self,
        candidates: &[Candidate],
        total: f64,
        mass: f32,
        logits: &[f32],
        scale: Scale,
    ) -> f64 {
        let of = |candidate: &Candidate| logits.get(candidate.token() as usize).copied().unwrap_or(f32::NAN);
        let sum: f64 = candidates.iter().map(|it| f64::from(scale.product(of(it), it.value()))).sum();
        let mean = sum / total;
        self.ranked.clear();
        let possible = candidates.iter().filter(|it| it.value() > 0.0);
        self.ranked.extend(possible.map(|it| ranked(distance(scale, of(it), mean), it.token())));
        self.cut(f64::from(mass) * total, logits, scale)
    }

    /// Keeps of all tokens those that reach `mass` of the sum of all weights. Returns the sum of what is kept.
    pub(super) fn keep_of_all(&mut self, weights: &Weights, mass: f32, logits: &[f32], scale: Scale) -> f64 {
        let total = weights.total();
        let mean = self.sum_of_products(weights, logits, scale) / total;
        let enough = f64::from(mass) * total;
        let mut within = FIRST_DISTANCE;
        loop {
            // Few tokens are needed most of the time, and sorting all of them would cost the most.
            let found = self.collect(weights, logits, scale, mean, within);
            if found >= enough * (1.0 + ROUNDING) || within > LARGEST_DISTANCE {
                return self.cut(enough, logits, scale);
            }
            within *= 2.0;
        }
    }

    /// The token in which the running sum passes `target`.
    pub(super) fn pick(&self, target: f64) -> u32 {
        pick(self.kept.iter().copied(), 0.0, target)
    }

    /// In blocks, as weights are summed up.
    fn sum_of_products(&mut self, weights: &Weights, logits: &[f32], scale: Scale) -> f64 {
        let products = &mut self.products;
        let blocks = weights.of_tokens().chunks(BLOCK).zip(logits.chunks(BLOCK)).map(|(weights, logits)| {
            products.clear();
            products.extend(weights.iter().zip(logits).map(|(&weight, &logit)| scale.product(logit, weight)));
            lanes::sum(products)
        });
        blocks.sum()
    }

    /// Takes all possible tokens up to this distance from the mean, in no order. Returns the sum of their weights.
    fn collect(&mut self, weights: &Weights, logits: &[f32], scale: Scale, mean: f64, within: f64) -> f64 {
        self.ranked.clear();
        let mut sum = 0.0;
        for ((&weight, &logit), token) in weights.of_tokens().iter().zip(logits).zip(0..) {
            let distance = distance(scale, logit, mean);
            if weight > 0.0 && distance <= within {
                sum += f64::from(weight);
                self.ranked.push(ranked(distance, token));
            }
        }
        sum
    }

    /// Keeps the most typical tokens until they reach `enough`, and those that are as typical as the last of them.
    fn cut(&mut self, enough: f64, logits: &[f32], scale: Scale) -> f64 {
        self.ranked.sort_unstable();
        self.kept.clear();
        let (mut sum, mut last) = (0.0, f32::NAN);
        for candidate in &self.ranked {
            if sum >= enough && candidate.value() != last && !self.kept.is_empty() {
                break;
            }
            let weight = scale.weight(logits.get(candidate.token() as usize).copied().unwrap_or(f32::NAN));
            sum += f64::from(weight);
            last = candidate.value();
            self.kept.push((weight, candidate.token()));
        }
        sum
    }
}

/// How far a logit is from the mean of all, both scaled. Not a number if the logit is none.
#[inline]
fn distance(scale: Scale, logit: f32, mean: f64) -> f64 {
    (f64::from(scale.exponent(logit)) - mean).abs()
}

fn ranked(distance: f64, token: u32) -> Candidate {
    Candidate::new(-(distance as f32), token)
}
