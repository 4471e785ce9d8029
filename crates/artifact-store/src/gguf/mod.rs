//! llama.cpp's model files: reading them with bounds, and turning them into
//! what MLX and the tokenizers library understand.
//!
//! ```text
//! reader     bytes -> metadata and the places of tensors; trusts nothing
//! types      element types: sizes, and what is stored for each
//! block      quantized blocks -> groups with a scale and a bias, or numbers
//! superblock the same for blocks of blocks
//! group      32 elements with a scale and a bias
//! micro_scaled  the same for blocks of small floats
//! architectures  metadata -> config.json, and which tensor becomes which
//! rope       rotary factors -> rope_scaling
//! tokenizer  metadata -> tokenizer.json, end tokens; byte_level, sentencepiece and wordpiece for its kinds
//! pre_tokenizer  how byte-level ones split a text, by name
//! vocabulary metadata -> tokens with their types and ids
//! ```

pub(crate) mod architectures;
pub(crate) mod block;
mod byte_level;
#[cfg(any(test, fuzzing))]
pub(crate) mod definitions;
mod group;
pub(crate) mod metadata;
pub(crate) mod micro_scaled;
mod pre_tokenizer;
pub(crate) mod reader;
pub(crate) mod rope;
mod sentencepiece;
mod superblock;
pub(crate) mod tokenizer;
pub(crate) mod types;
mod vocabulary;
mod wordpiece;

pub(crate) use rope::RopeFactors;

/// Why a GGUF file cannot be imported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GgufError {
    #[error("it is not a GGUF file (the first four bytes are not `GGUF`)")]
    NotGguf,
    #[error("its GGUF version is {0}; versions 2 and 3, little-endian, can be read")]
    Version(u32),
    #[error("it ends too early, while reading {0}: it is damaged or not completely downloaded")]
    Truncated(&'static str),
    #[error("its header is damaged: {0}")]
    Damaged(String),
    #[error("its metadata lacks `{0}`")]
    MissingKey(String),
    #[error("its metadata has another type than expected at `{0}`")]
    WrongType(String),
    #[error("a weight, or the scale of a block, is not a finite number")]
    NotFinite,
    #[error("{0}")]
    Unsupported(String),
    #[error("reading it failed")]
    Io(#[from] std::io::Error),
}
