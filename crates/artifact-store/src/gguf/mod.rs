//! llama.cpp's model files: reading them with bounds, and turning them into
//! what MLX and the tokenizers library understand.
//!
//! ```text
//! reader     bytes -> metadata and the places of tensors; trusts nothing
//! block      quantized blocks -> MLX affine packing, the same values
//! llama      metadata -> config.json, and which tensor becomes which
//! tokenizer  metadata -> tokenizer.json, end tokens
//! ```

pub(crate) mod block;
pub(crate) mod llama;
pub(crate) mod metadata;
pub(crate) mod reader;
pub(crate) mod tokenizer;

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
    #[error("{0}")]
    Unsupported(String),
    #[error("reading failed: {0}")]
    Io(#[from] std::io::Error),
}
