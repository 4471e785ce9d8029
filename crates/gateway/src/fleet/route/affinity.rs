//! The best of a model's workers for one request: the one that has computed its prompt's beginning before, and may share
//! it, if it is not much busier than the others; else the least busy one.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998) ranks the workers for each prefix. So the same prefix goes to the
//! same worker without a table; if that one is gone, its prefixes spread over all others, and come back with it. The
//! first in rank takes the request whose work is within a bound of the least busy one's. That is the idea of "Consistent
//! Hashing with Bounded Loads" (Mirrokni, Thorup and Zadimoghaddam, 2016), where the bound is a factor of the average;
//! here it is one of the least, plus the tokens of the prompt, which are the most that can be shared.

use std::{
    cmp::Reverse,
    hash::{DefaultHasher, Hash, Hasher},
};

use protocol::message::Prompt;

use crate::worker::load::prompt_tokens;

/// What routing has to know of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteRequest {
    /// Stands for the beginning of the prompt; `None`: whoever is least busy is best.
    prefix: Option<u64>,
    /// About how many tokens the prompt has.
    prompt_tokens: u64,
}

/// A worker that can take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Its number among the model's workers, the same for all of its processes.
    pub(super) number: usize,
    /// Tokens that it has still to compute.
    pub(super) outstanding: u64,
    /// Its live streams.
    pub(super) streams: usize,
}

/// Bytes of a prompt that stand for its beginning. Prompts that differ only later share a worker, as far as its load
/// allows.
const PREFIX_BYTES: usize = 1024;

/// As many tokens.
const PREFIX_TOKENS: usize = PREFIX_BYTES / 4;

/// A worker's work may exceed the least busy one's by this part of it.
const EXCESS: u64 = 4;

impl RouteRequest {
    /// For a prompt. Of a chat, the beginning ends with the user's first message, so that it is the same in all of a
    /// conversation's requests.
    pub fn of(prompt: &Prompt) -> Self {
        let mut hasher = DefaultHasher::new();
        match prompt {
            Prompt::Text(text) => hasher.write(clip(text.as_bytes(), PREFIX_BYTES)),
            Prompt::Tokens(tokens) => clip(tokens, PREFIX_TOKENS).hash(&mut hasher),
            Prompt::Chat(messages) => {
                let mut left = PREFIX_BYTES;
                for message in messages {
                    let content = clip(message.content.as_bytes(), left);
                    (&message.role, content).hash(&mut hasher);
                    left -= content.len();
                    if left == 0 || message.role == "user" {
                        break;
                    }
                }
            }
        }
        Self { prefix: Some(hasher.finish()), prompt_tokens: prompt_tokens(prompt) }
    }

    /// The same for an adapter, by its digest: equal prompts share nothing there.
    #[must_use]
    pub fn with_adapter(self, adapter: Option<&str>) -> Self {
        let (Some(prefix), Some(adapter)) = (self.prefix, adapter) else { return self };
        let mut hasher = DefaultHasher::new();
        (prefix, adapter).hash(&mut hasher);
        Self { prefix: Some(hasher.finish()), ..self }
    }
}

/// Index of the best candidate; `None` if there is none.
pub(super) fn pick(candidates: &[Candidate], request: RouteRequest) -> Option<usize> {
    let indexed = || candidates.iter().enumerate();
    let (idlest, least) = indexed().min_by_key(|(_, it)| (it.outstanding, it.streams, it.number))?;
    let Some(prefix) = request.prefix else { return Some(idlest) };
    let bound = bound(least.outstanding, request.prompt_tokens);
    let within = indexed().filter(|(_, it)| it.outstanding <= bound);
    within.max_by_key(|(_, it)| (rank(prefix, it.number), Reverse(it.number))).map(|(index, _)| index)
}

/// Most outstanding tokens of a worker that is preferred to the least busy one.
fn bound(least: u64, prompt_tokens: u64) -> u64 {
    least.saturating_add(least / EXCESS).saturating_add(prompt_tokens)
}

/// The higher, the better is this worker for the prefix.
fn rank(prefix: u64, worker: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    (prefix, worker).hash(&mut hasher);
    hasher.finish()
}

fn clip<T>(items: &[T], most: usize) -> &[T] {
    &items[..items.len().min(most)]
}

#[cfg(test)]
mod tests;
