//! The choice as it is defined: every token a pair, all of them sorted, sums in plain loops.

use protocol::message::Sampling;

use crate::sample::{
    draw::uniform,
    weights::{BLOCK, Scale},
};

/// What the exponential is and how all weights are summed up.
pub(super) struct Rule {
    pub(super) weight: fn(logit: f32, max: f32, temperature: f32) -> f32,
    pub(super) total: fn(weights: &[f32]) -> f64,
}

/// What the sampler promises.
pub(super) const OURS: Rule = Rule {
    weight: |logit, max, temperature| Scale { max, temperature }.weight(logit),
    total: |weights| {
        let sums = weights.chunks(BLOCK).map(|block| {
            let mut lanes = [0.0; 16];
            for (index, &weight) in block.iter().enumerate() {
                lanes[index % 16] += f64::from(weight);
            }
            lanes.into_iter().sum::<f64>()
        });
        sums.sum()
    },
};

/// The system's exponential, and one token after the other.
pub(super) const PLAIN: Rule = Rule {
    weight: |logit, max, temperature| if logit == max { 1.0 } else { ((logit - max) / temperature).exp() },
    total: |weights| weights.iter().copied().map(f64::from).sum(),
};

impl Rule {
    /// The token, without penalties and biases.
    pub(super) fn sample(&self, sampling: &Sampling, logits: &[f32], position: u64) -> u32 {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if sampling.temperature <= 0.0 {
            let first = logits.iter().position(|&logit| logit == max && max > f32::NEG_INFINITY);
            return first.unwrap_or(0) as u32;
        }
        let mut tokens: Vec<(f32, u32)> = logits.iter().copied().zip(0..).collect();
        tokens.retain(|(logit, _)| !logit.is_nan());
        if sampling.top_k > 0 {
            sort(&mut tokens);
            tokens.truncate(sampling.top_k as usize);
        }
        for (value, _) in &mut tokens {
            *value = (self.weight)(*value, max, sampling.temperature);
        }
        let mut total = if sampling.top_k > 0 {
            sort(&mut tokens);
            sum(&tokens)
        } else {
            // What is not a number has a place, too.
            let mut weights = vec![0.0; logits.len()];
            tokens.iter().for_each(|&(weight, token)| weights[token as usize] = weight);
            (self.total)(&weights)
        };
        if sampling.top_p < 1.0 || sampling.min_p > 0.0 {
            sort(&mut tokens);
            keep_likely(&mut tokens, total, sampling);
            total = sum(&tokens);
        }
        if sampling.typical_p < 1.0 {
            let scale = Scale { max, temperature: sampling.temperature };
            let filtered = sampling.top_k > 0 || sampling.top_p < 1.0 || sampling.min_p > 0.0;
            let exponent = |token: u32| match logits[token as usize] {
                logit if logit == max => 0.0,
                logit => (logit - scale.max) / scale.temperature,
            };
            let product =
                |&(weight, token): &(f32, u32)| if weight > 0.0 { exponent(token) * weight } else { 0.0 };
            let mean = if filtered {
                tokens.iter().map(|it| f64::from(product(it))).sum::<f64>() / total
            } else {
                let mut products = vec![0.0; logits.len()];
                tokens.iter().for_each(|it| products[it.1 as usize] = product(it));
                (self.total)(&products) / total
            };
            keep_typical(&mut tokens, f64::from(sampling.typical_p) * total, |token| {
                (f64::from(exponent(token)) - mean).abs() as f32
            });
            total = sum(&tokens);
        }
        pick(&tokens, uniform(sampling.seed, position) * total)
    }
}

/// Large values first, and the lower token first among equals.
fn sort(tokens: &mut [(f32, u32)]) {
    tokens.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
}

fn keep_likely(tokens: &mut Vec<(f32, u32)>, total: f64, sampling: &Sampling) {
    let mut sum = 0.0;
    let first = tokens.first().map_or(0.0, |(weight, _)| *weight);
    let head = tokens.iter().take_while(|(weight, _)| {
        let enough = sampling.top_p < 1.0 && sum >= f64::from(sampling.top_p) * total;
        let kept = sum == 0.0 || (!enough && *weight >= sampling.min_p * first);
        sum += f64::from(*weight);
        kept
    });
    let len = head.count();
    tokens.truncate(len);
}

/// The nearest first, until they reach `enough`, and those that are as near as the last of them.
fn keep_typical(tokens: &mut Vec<(f32, u32)>, enough: f64, distance: impl Fn(u32) -> f32) {
    tokens.retain(|(weight, _)| *weight > 0.0);
    tokens.sort_by(|a, b| distance(a.1).total_cmp(&distance(b.1)).then(a.1.cmp(&b.1)));
    let mut sum = 0.0;
    let mut last = None;
    let kept = tokens.iter().take_while(|&&(weight, token)| {
        let kept = sum < enough || last == Some(distance(token));
        sum += f64::from(weight);
        last = Some(distance(token));
        kept
    });
    let len = kept.count();
    tokens.truncate(len);
}

fn sum(tokens: &[(f32, u32)]) -> f64 {
    tokens.iter().map(|(weight, _)| f64::from(*weight)).sum()
}

fn pick(tokens: &[(f32, u32)], target: f64) -> u32 {
    let mut sum = 0.0;
    let passed = tokens.iter().find(|(weight, _)| {
        sum += f64::from(*weight);
        sum > target
    });
    let last = || tokens.iter().rev().find(|(weight, _)| *weight > 0.0);
    passed.or_else(last).map_or(0, |(_, token)| *token)
}
