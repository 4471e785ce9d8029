//! From one row of logits to one token.
//!
//! The order is penalties, bias, temperature, top-k, top-p, min-p, draw. The draw is a pure function of
//! (seed, position), so that a request gets the same tokens alone, in a batch, after preemption, or on
//! another worker.

use std::collections::HashMap;

use protocol::message::Sampling;

/// Chooses the tokens of one sequence, and counts what the penalties need to know.
///
/// What a token costs is bounded by the vocabulary, however long the prompt, the output and the list of biases are.
#[derive(Debug)]
pub struct Sampler {
    /// Its biases are sorted, one a token.
    sampling: Sampling,
    /// Generated tokens, each once, and how often; empty unless a penalty asks for it.
    generated: Vec<(u32, u32)>,
    /// Where a token is in `generated`.
    places: HashMap<u32, usize>,
    /// Tokens of prompt and output, each once; empty unless the repetition penalty asks for it.
    seen: Vec<u32>,
    /// How many of them, sorted, are the prompt's.
    in_prompt: usize,
    /// Reused between calls: (logit, then probability; token).
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler for a sequence that begins with `prompt`.
    pub fn new(mut sampling: Sampling, prompt: &[u32]) -> Self {
        let mut seen = Vec::new();
        if sampling.repetition_penalty != 1.0 {
            seen.extend_from_slice(prompt);
            seen.sort_unstable();
            seen.dedup();
        }
        sum_biases(&mut sampling.logit_bias);
        let in_prompt = seen.len();
        Self {
            sampling,
            generated: Vec::new(),
            places: HashMap::new(),
            seen,
            in_prompt,
            candidates: Vec::new(),
        }
    }

    /// The token that follows, given the logits of every token of the vocabulary.
    ///
    /// `position` is the index of the new token in the whole sequence. Logits that are not numbers count
    /// as impossible; if all are, the answer is token 0.
    pub fn sample(&mut self, logits: &[f32], position: u64) -> u32 {
        let token = if !self.is_adjusted() && self.sampling.temperature <= 0.0 {
            argmax(logits.iter().copied().zip(0..))
        } else {
            self.candidates.clear();
            self.candidates.extend(logits.iter().copied().zip(0..));
            self.adjust();
            if self.sampling.temperature <= 0.0 {
                argmax(self.candidates.iter().copied())
            } else {
                self.draw(uniform(self.sampling.seed, position))
            }
        };
        if self.counts_tokens() {
            self.count(token);
        }
        token
    }

    fn count(&mut self, token: u32) {
        let place = *self.places.entry(token).or_insert(self.generated.len());
        match self.generated.get_mut(place) {
            Some((_, count)) => *count += 1,
            None => {
                self.generated.push((token, 1));
                let is_new = self.seen[..self.in_prompt].binary_search(&token).is_err();
                if is_new && self.sampling.repetition_penalty != 1.0 {
                    self.seen.push(token);
                }
            }
        }
    }

    fn counts_tokens(&self) -> bool {
        let s = &self.sampling;
        s.repetition_penalty != 1.0 || s.presence_penalty != 0.0 || s.frequency_penalty != 0.0
    }

    fn is_adjusted(&self) -> bool {
        self.counts_tokens() || !self.sampling.logit_bias.is_empty()
    }

    /// Applies penalties and bias. `candidates` is still indexed by token.
    fn adjust(&mut self) {
        let Sampling { repetition_penalty, presence_penalty, frequency_penalty, .. } = self.sampling;
        let candidates = &mut self.candidates;
        for &token in &self.seen {
            if let Some((logit, _)) = candidates.get_mut(token as usize) {
                *logit = if *logit > 0.0 { *logit / repetition_penalty } else { *logit * repetition_penalty };
            }
        }
        for &(token, count) in &self.generated {
            if let Some((logit, _)) = candidates.get_mut(token as usize) {
                *logit -= presence_penalty + frequency_penalty * count as f32;
            }
        }
        for &(token, bias) in &self.sampling.logit_bias {
            if let Some((logit, _)) = candidates.get_mut(token as usize) {
                *logit += bias;
            }
        }
    }

    /// Filters the candidates and takes the one at `quantile` of their probability.
    fn draw(&mut self, quantile: f64) -> u32 {
        let Sampling { temperature, top_p, top_k, min_p, .. } = self.sampling;
        let candidates = &mut self.candidates;
        candidates.retain(|(logit, _)| !logit.is_nan());
        if top_k > 0 && (top_k as usize) < candidates.len() {
            candidates.select_nth_unstable_by(top_k as usize - 1, by_falling_value);
            candidates.truncate(top_k as usize);
        }
        let mut total = to_probabilities(candidates, temperature);
        if top_p < 1.0 || min_p > 0.0 {
            total = keep_likely(candidates, total, top_p, min_p);
        } else if top_k > 0 {
            // `select_nth_unstable` leaves an order that depends on all logits: make it one of its own.
            candidates.sort_unstable_by(by_falling_value);
        }
        pick(candidates, quantile * total)
    }
}

/// One bias a token, sorted: those of a token that is named several times are added up, in the order in which they came.
fn sum_biases(biases: &mut Vec<(u32, f32)>) {
    biases.sort_by_key(|(token, _)| *token);
    biases.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
}

/// Largest value, the lowest token among equals.
fn argmax(candidates: impl Iterator<Item = (f32, u32)>) -> u32 {
    let best =
        candidates.fold((f32::NEG_INFINITY, 0), |best, next| if next.0 > best.0 { next } else { best });
    best.1
}

/// Large values first, and the lower token first among equals, so that the order is total.
fn by_falling_value(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Replaces logits by unnormalised probabilities at `temperature`; returns their sum.
fn to_probabilities(candidates: &mut [(f32, u32)], temperature: f32) -> f64 {
    let max = candidates.iter().fold(f32::NEG_INFINITY, |max, &(logit, _)| max.max(logit));
    let mut total = 0.0;
    for (value, _) in candidates {
        // Equal infinities would give NaN; a certain token has weight 1.
        *value = if *value == max { 1.0 } else { ((*value - max) / temperature).exp() };
        total += f64::from(*value);
    }
    total
}

/// Sorts, then keeps the smallest head that reaches `top_p` of `total`, and of it the tokens at least
/// `min_p` as likely as the first. Returns the sum of what is kept.
fn keep_likely(candidates: &mut Vec<(f32, u32)>, total: f64, top_p: f32, min_p: f32) -> f64 {
    // All tokens below this together weigh less than `1 - top_p`, so the head never needs them. It spares
    // sorting the whole vocabulary.
    let negligible = (1.0 - f64::from(top_p)) * total / candidates.len().max(1) as f64;
    if min_p <= 0.0 || top_p < 1.0 {
        candidates.retain(|&(p, _)| f64::from(p) >= negligible);
    }
    candidates.sort_unstable_by(by_falling_value);
    let threshold = min_p * candidates.first().map_or(0.0, |&(p, _)| p);
    let mut kept = 0.0;
    let mut len = 0;
    for &(p, _) in candidates.iter() {
        if len > 0 && (kept >= f64::from(top_p) * total || p < threshold) {
            break;
        }
        kept += f64::from(p);
        len += 1;
    }
    candidates.truncate(len);
    kept
}

/// The candidate in which the running sum passes `target`.
fn pick(candidates: &[(f32, u32)], target: f64) -> u32 {
    let mut sum = 0.0;
    for &(p, token) in candidates {
        sum += f64::from(p);
        if sum > target {
            return token;
        }
    }
    // Rounding can leave the target at the sum itself.
    candidates.iter().rev().find(|&&(p, _)| p > 0.0).map_or(0, |&(_, token)| token)
}

/// A number in `[0, 1)` that depends on nothing but its arguments.
///
/// The finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014),
/// applied to the seed and again to its sum with the position.
fn uniform(seed: u64, position: u64) -> f64 {
    fn mix(mut z: u64) -> u64 {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    let bits = mix(mix(seed).wrapping_add(position));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
