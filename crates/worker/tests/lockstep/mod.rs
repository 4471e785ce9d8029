//! Several models on the same tokens, step by step, compared with the first of them.

#![allow(dead_code, clippy::unwrap_used)] // not every user needs everything

use worker::model::{Logits, Model, SequenceKv, StepInput, StepRow};

/// What a model did otherwise than the one it is compared with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// The largest difference of any logit after a whole prompt.
    pub(crate) after_prompts: f64,
    /// The largest difference of any logit anywhere.
    pub(crate) largest_difference: f64,
    /// Where the best token was another, in order.
    pub(crate) other_tokens: Vec<OtherToken>,
    /// How many tokens were chosen.
    pub(crate) chosen: usize,
    /// Negative logarithm of the text's probability, and how many tokens it is of.
    pub(crate) surprisal: f64,
    pub(crate) predicted: usize,
}

/// A place where two models choose differently.
#[derive(Debug, Clone)]
pub(crate) struct OtherToken {
    /// The sequence, and which of its new tokens.
    pub(crate) sequence: usize,
    pub(crate) index: usize,
    /// Between the two best logits of the model compared with.
    pub(crate) margin: f64,
}

impl Outcome {
    pub(crate) fn perplexity(&self) -> f64 {
        (self.surprisal / self.predicted as f64).exp()
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.after_prompts = self.after_prompts.max(other.after_prompts);
        self.largest_difference = self.largest_difference.max(other.largest_difference);
        self.other_tokens.extend(other.other_tokens);
        self.chosen += other.chosen;
        self.surprisal += other.surprisal;
        self.predicted += other.predicted;
    }

    fn compare(&mut self, found: &[f32], expected: &[f32]) {
        let difference = |(a, b): (&f32, &f32)| f64::from((a - b).abs());
        let largest = found.iter().zip(expected).map(difference).fold(0.0, |worst: f64, difference| {
            if difference.is_nan() { f64::INFINITY } else { worst.max(difference) }
        });
        self.largest_difference = self.largest_difference.max(largest);
    }
}

/// Continues every prompt by `count` tokens, those that the first model likes best. Up to its first other token a model
/// would have chosen the same ones on its own.
pub(crate) fn continue_greedily(models: &[Model], prompts: &[Vec<u32>], count: usize) -> Vec<Outcome> {
    let mut outcomes = vec![Outcome::default(); models.len()];
    let mut kvs = new_kvs(models, prompts.len());
    let mut next: Vec<Vec<u32>> = prompts.to_vec();
    for index in 0..count {
        let logits = step(models, &mut kvs, &next);
        for (sequence, next) in next.iter_mut().enumerate() {
            let expected = logits[0].row(sequence);
            let (token, margin) = best(expected);
            for (outcome, logits) in outcomes.iter_mut().zip(&logits) {
                outcome.compare(logits.row(sequence), expected);
                if index == 0 {
                    outcome.after_prompts = outcome.largest_difference;
                }
                outcome.chosen += 1;
                if best(logits.row(sequence)).0 != token {
                    outcome.other_tokens.push(OtherToken { sequence, index, margin });
                }
            }
            *next = vec![token];
        }
    }
    outcomes
}

/// Reads every text token by token. All are of one length.
pub(crate) fn read(models: &[Model], texts: &[Vec<u32>]) -> Vec<Outcome> {
    let mut outcomes = vec![Outcome::default(); models.len()];
    let mut kvs = new_kvs(models, texts.len());
    for index in 1..texts[0].len() {
        let now: Vec<Vec<u32>> = texts.iter().map(|text| vec![text[index - 1]]).collect();
        let logits = step(models, &mut kvs, &now);
        for (outcome, found) in outcomes.iter_mut().zip(&logits) {
            for (sequence, text) in texts.iter().enumerate() {
                outcome.compare(found.row(sequence), logits[0].row(sequence));
                outcome.surprisal += surprisal(found.row(sequence), text[index]);
                outcome.predicted += 1;
            }
        }
    }
    outcomes
}

fn new_kvs(models: &[Model], sequences: usize) -> Vec<Vec<SequenceKv>> {
    models.iter().map(|model| (0..sequences).map(|_| model.new_kv()).collect()).collect()
}

/// One step of every model.
fn step(models: &[Model], kvs: &mut [Vec<SequenceKv>], tokens: &[Vec<u32>]) -> Vec<Logits> {
    let forward = |(model, kvs): (&Model, &mut Vec<SequenceKv>)| {
        let rows = tokens.iter().zip(kvs).map(|(tokens, kv)| StepRow::last_logits(tokens, kv));
        model.forward(&mut StepInput { rows: rows.collect() }).unwrap().unwrap()
    };
    models.iter().zip(kvs).map(forward).collect()
}

/// The token with the largest logit, and by how much it is ahead of the second.
fn best(logits: &[f32]) -> (u32, f64) {
    let (mut token, mut first, mut second) = (0, f32::NEG_INFINITY, f32::NEG_INFINITY);
    for (candidate, &logit) in (0..).zip(logits) {
        if logit > first {
            (token, second, first) = (candidate, first, logit);
        } else if logit > second {
            second = logit;
        }
    }
    (token, f64::from(first - second))
}

/// Negative logarithm of the probability that logits give to a token.
fn surprisal(logits: &[f32], token: u32) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    sum.ln() + largest - f64::from(logits[token as usize])
}
