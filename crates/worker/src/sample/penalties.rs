//! What prompt and output so far do to the logits, and the biases that the request asks for.

use std::collections::HashMap;

use protocol::message::Sampling;

/// Penalties of one sequence, and the counts that they need.
#[derive(Debug)]
pub(super) struct Penalties {
    repetition: f32,
    presence: f32,
    frequency: f32,
    /// Sorted, one a token.
    pub(super) bias: Vec<(u32, f32)>,
    /// Generated tokens, each once, and how often; empty unless a penalty asks for it.
    pub(super) generated: Vec<(u32, u32)>,
    /// Where a token is in `generated`.
    places: HashMap<u32, usize>,
    /// Tokens of prompt and output, each once; empty unless the repetition penalty asks for it.
    pub(super) seen: Vec<u32>,
    /// How many of them, sorted, are the prompt's.
    pub(super) in_prompt: usize,
}

impl Penalties {
    /// Takes the biases out of `sampling`.
    pub(super) fn new(sampling: &mut Sampling, prompt: &[u32]) -> Self {
        let mut seen = Vec::new();
        if sampling.repetition_penalty != 1.0 {
            seen.extend_from_slice(prompt);
            seen.sort_unstable();
            seen.dedup();
        }
        let mut bias = std::mem::take(&mut sampling.logit_bias);
        sum_by_token(&mut bias);
        Self {
            repetition: sampling.repetition_penalty,
            presence: sampling.presence_penalty,
            frequency: sampling.frequency_penalty,
            bias,
            generated: Vec::new(),
            places: HashMap::new(),
            in_prompt: seen.len(),
            seen,
        }
    }

    /// Whether the logits stay as they are.
    pub(super) fn change_nothing(&self) -> bool {
        !self.counts_tokens() && self.bias.is_empty()
    }

    /// Takes note of a generated token.
    pub(super) fn count(&mut self, token: u32) {
        if !self.counts_tokens() {
            return;
        }
        let place = *self.places.entry(token).or_insert(self.generated.len());
        match self.generated.get_mut(place) {
            Some((_, count)) => *count += 1,
            None => {
                self.generated.push((token, 1));
                let is_new = self.seen[..self.in_prompt].binary_search(&token).is_err();
                if is_new && self.repetition != 1.0 {
                    self.seen.push(token);
                }
            }
        }
    }

    /// Changes the logits, one for each token.
    pub(super) fn apply(&self, logits: &mut [f32]) {
        for &token in &self.seen {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if *logit > 0.0 { *logit / self.repetition } else { *logit * self.repetition };
            }
        }
        for &(token, count) in &self.generated {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit -= self.presence + self.frequency * count as f32;
            }
        }
        for &(token, bias) in &self.bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
    }

    fn counts_tokens(&self) -> bool {
        self.repetition != 1.0 || self.presence != 0.0 || self.frequency != 0.0
    }
}

/// One bias a token, sorted: those of a token that is named several times are added up, in the order in which they came.
fn sum_by_token(bias: &mut Vec<(u32, f32)>) {
    bias.sort_by_key(|(token, _)| *token);
    bias.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
}
