//! How much work is before a worker, in tokens: those of prompts that it has to compute, and those that it has still to
//! generate.
//!
//! Neither is known when a request is sent. A prompt's tokens are estimated from its bytes until the worker has counted
//! them, and are done with the first token of the answer. An answer is taken to be as long as answers have been of
//! late, unless `max_tokens` is less.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use protocol::message::{Generate, Prompt};

/// The work before one worker.
#[derive(Debug)]
pub struct Load {
    outstanding: AtomicU64,
    /// Tokens of an answer, on average of the latest.
    answer: AtomicU64,
}

/// The part of one stream. Dropping it gives back what is left of it.
#[derive(Debug)]
pub struct Share {
    load: Arc<Load>,
    prompt: u64,
    /// Tokens that another worker has generated: they are computed like those of the prompt.
    resumed: u64,
    /// Tokens that the answer is expected to have in all.
    expected: u64,
    /// Most tokens that it may have.
    limit: u64,
    generated: u64,
}

/// Bytes of text that are a token, on average over languages and vocabularies.
const BYTES_PER_TOKEN: usize = 4;

/// Tokens that a template adds to a message.
const MESSAGE_TOKENS: usize = 4;

/// Tokens of an answer before any has been seen.
const FIRST_ANSWER: u64 = 256;

/// The latest answer counts for this part of the average.
const AVERAGE_OF: u64 = 16;

/// Tokens that an answer is taken to go on for when it is longer than was expected.
const MORE: u64 = 32;

impl Load {
    /// Tokens that are still to be computed.
    pub fn outstanding(&self) -> u64 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// Counts a request until the share is dropped.
    pub fn share(self: &Arc<Self>, generate: &Generate) -> Share {
        let resumed = generate.resume.len() as u64;
        let limit = generate.max_tokens.map_or(u64::MAX, u64::from);
        let share = Share {
            load: Arc::clone(self),
            prompt: prompt_tokens(&generate.prompt) + resumed,
            resumed,
            expected: self.answer.load(Ordering::Relaxed).min(limit),
            limit,
            generated: resumed,
        };
        self.outstanding.fetch_add(share.tokens(), Ordering::Relaxed);
        share
    }

    fn learn(&self, answer: u64) {
        // Of two answers that end at the same moment one may be lost: it is an average.
        let average = self.answer.load(Ordering::Relaxed);
        let next = (average * (AVERAGE_OF - 1) + answer).div_ceil(AVERAGE_OF);
        self.answer.store(next, Ordering::Relaxed);
    }
}

impl Default for Load {
    fn default() -> Self {
        Self { outstanding: AtomicU64::new(0), answer: AtomicU64::new(FIRST_ANSWER) }
    }
}

impl Share {
    /// The worker has counted the prompt's tokens.
    pub fn prepared(&mut self, prompt_tokens: u32) {
        self.change(|share| share.prompt = u64::from(prompt_tokens) + share.resumed);
    }

    /// The worker has generated further tokens, and computed the prompt before.
    pub fn generated(&mut self, tokens: usize) {
        if tokens > 0 {
            self.change(|share| {
                share.prompt = 0;
                share.generated += tokens as u64;
            });
        }
    }

    /// The answer ended by itself, with as many tokens in all.
    pub fn finished(&mut self, tokens: u32) {
        self.load.learn(tokens.into());
    }

    fn tokens(&self) -> u64 {
        let left = self.limit.saturating_sub(self.generated);
        let expected = self.expected.saturating_sub(self.generated);
        self.prompt + expected.max(MORE.min(left))
    }

    fn change(&mut self, change: impl FnOnce(&mut Self)) {
        let before = self.tokens();
        change(self);
        let (after, outstanding) = (self.tokens(), &self.load.outstanding);
        if after >= before {
            outstanding.fetch_add(after - before, Ordering::Relaxed);
        } else {
            outstanding.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.load.outstanding.fetch_sub(self.tokens(), Ordering::Relaxed);
    }
}

/// About how many tokens a prompt has.
pub fn prompt_tokens(prompt: &Prompt) -> u64 {
    let tokens = match prompt {
        Prompt::Tokens(tokens) => tokens.len(),
        Prompt::Text(text) => text.len().div_ceil(BYTES_PER_TOKEN),
        Prompt::Chat(messages) => {
            messages.iter().map(|it| MESSAGE_TOKENS + it.content.len().div_ceil(BYTES_PER_TOKEN)).sum()
        }
    };
    tokens as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::{ids::RequestId, message::ChatMessage};

    use super::*;

    fn generate(tokens: usize, max_tokens: Option<u32>) -> Generate {
        Generate { max_tokens, ..Generate::new(RequestId(1), Prompt::Tokens(vec![0; tokens]), 1) }
    }

    #[test]
    fn prompts_are_estimated_by_their_bytes() {
        let message = |content: &str| ChatMessage::new("user", content);
        let chat = Prompt::Chat(vec![message(&"x".repeat(40)), message("x")]);
        assert_eq!(prompt_tokens(&chat), 10 + 1 + 8);
        assert_eq!(prompt_tokens(&Prompt::Text("x".repeat(9))), 3);
        assert_eq!(prompt_tokens(&Prompt::Tokens(vec![7; 9])), 9);
    }

    #[test]
    fn a_stream_counts_for_its_prompt_until_the_first_token_and_then_for_what_is_left_of_its_answer() {
        let load = Arc::new(Load::default());
        let mut share = load.share(&generate(100, Some(50)));
        assert_eq!(load.outstanding(), 150);
        share.prepared(120);
        assert_eq!(load.outstanding(), 170);
        share.generated(0);
        assert_eq!(load.outstanding(), 170, "the text of a token may be incomplete");
        share.generated(5);
        assert_eq!(load.outstanding(), 45);
        share.generated(44);
        assert_eq!(load.outstanding(), 1);
        drop(share);
        assert_eq!(load.outstanding(), 0);
    }

    #[test]
    fn an_answer_without_a_limit_is_taken_to_be_as_long_as_others_were() {
        let load = Arc::new(Load::default());
        for _ in 0..100 {
            load.share(&generate(1, None)).finished(20);
        }
        assert!((20..=35).contains(&load.answer.load(Ordering::Relaxed)), "{load:?}");
        let mut share = load.share(&generate(1, Some(4000)));
        share.generated(1000);
        assert_eq!(load.outstanding(), MORE, "it goes on all the same");
        share.generated(2999);
        assert_eq!(load.outstanding(), 1);
    }

    #[test]
    fn what_was_generated_elsewhere_is_computed_like_a_prompt() {
        let load = Arc::new(Load::default());
        let request = Generate { resume: vec![1; 30], ..generate(10, Some(40)) };
        let mut share = load.share(&request);
        // Ten are left of the forty, and more are expected to come.
        assert_eq!(load.outstanding(), 10 + 30 + 10);
        share.prepared(12);
        assert_eq!(load.outstanding(), 12 + 30 + 10);
    }

    proptest! {
        #[test]
        fn all_of_it_is_given_back(
            streams in prop::collection::vec(
                (0..500usize, prop::option::of(0..500u32), prop::collection::vec(0..3usize, 0..20), 0..900u32), 1..20,
            ),
        ) {
            let load = Arc::new(Load::default());
            let mut shares: Vec<_> =
                streams.iter().map(|(prompt, max, ..)| load.share(&generate(*prompt, *max))).collect();
            for (share, (_, _, deltas, count)) in shares.iter_mut().zip(&streams) {
                share.prepared(*count);
                deltas.iter().for_each(|tokens| share.generated(*tokens));
            }
            let sum: u64 = shares.iter().map(Share::tokens).sum();
            prop_assert_eq!(load.outstanding(), sum);
            shares.iter_mut().zip(&streams).for_each(|(share, stream)| share.finished(stream.3));
            drop(shares);
            prop_assert_eq!(load.outstanding(), 0);
        }
    }
}
