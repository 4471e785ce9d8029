//! What workers may use, keep and guess.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::value::{bytes, models, number};

/// What all workers may use together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// Bytes for weights, keys and values and everything else of all workers of all models; 0: 70 % of the machine's memory.
    #[serde(deserialize_with = "bytes::<_, 0, { 1 << 50 }>")]
    pub max_bytes: u64,
}

/// What each worker may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// Memory for keys and values, in bytes. When it is full, the latest sequences are computed again later. On a GPU a fifth
    /// of it is for copies of what is being decoded.
    #[serde(deserialize_with = "bytes::<_, { 1 << 20 }, { 1 << 50 }>")]
    pub kv_max_bytes: u64,
    /// Most sequences that run at the same time; further ones wait.
    #[serde(deserialize_with = "number::<_, _, 1, 4096>")]
    pub max_num_seqs: u32,
    /// Most tokens of a prompt that one step computes; beside others that wait for their next token it is fewer.
    #[serde(deserialize_with = "number::<_, _, 1, 65_536>")]
    pub max_prompt_chunk_tokens: u32,
    /// Memory for adapters, in bytes. One that is in use stays; of the others those go that were not used for longest.
    #[serde(deserialize_with = "bytes::<_, 0, { 1 << 50 }>")]
    pub adapter_max_bytes: u64,
    /// Whether the text of a special token in a chat's message is that token.
    pub special_tokens_in_content: bool,
}

/// Keys and values that are kept for later requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrefixCache {
    /// Whether those of prompts and outputs are kept for later requests that begin with the same tokens.
    pub enabled: bool,
    /// Bytes on disk for them, all models together, so that a restart or a worker's death loses nothing; 0: none.
    #[serde(deserialize_with = "bytes::<_, 0, { 1 << 50 }>")]
    pub disk_max_bytes: u64,
}

/// Tokens that are guessed before they are computed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Speculation {
    /// Most tokens of a sequence that one step guesses and checks; 0: none.
    #[serde(deserialize_with = "number::<_, _, 0, 64>")]
    pub max_draft_tokens: u32,
    /// Maps a model's name or digest to that of a smaller model, which guesses tokens for it where the text does not repeat
    /// itself.
    #[serde(deserialize_with = "models")]
    pub draft_models: BTreeMap<String, String>,
}
