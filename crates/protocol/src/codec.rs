//! Messages to bytes and back. The only file that names `bincode`.
//!
//! `bincode` encodes by position: no names, no tags, varint integers. Nobody maintains it any more, so its
//! version is pinned, and `tests/golden.rs` pins its bytes.

use bincode::config;
use serde::{Serialize, de::DeserializeOwned};

/// Most bytes of one encoded message: far above any sensible batch, far below what would hurt.
pub const MAX_ENCODED: usize = 64 << 20;

/// Why a message could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The message is larger than [`MAX_ENCODED`].
    #[error("message of {len} bytes is over the limit of {MAX_ENCODED} bytes")]
    TooLarge {
        /// Its encoded size in bytes.
        len: usize,
    },
    /// The value refused to be encoded.
    #[error("message can't be encoded: {0}")]
    Encode(#[source] bincode::error::EncodeError),
    /// The bytes are no message of this type.
    #[error("bytes are no such message: {0}")]
    Decode(#[source] bincode::error::DecodeError),
    /// A message was decoded, and something follows it.
    #[error("{rest} bytes follow after the end of the message")]
    TrailingBytes {
        /// How many.
        rest: usize,
    },
}

/// Encodes `value` into `out`, which is cleared first and keeps its capacity: reuse it.
///
/// # Errors
/// If the encoded value is larger than [`MAX_ENCODED`]; `out` is empty then.
pub fn encode<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    out.clear();
    let result = bincode::serde::encode_into_std_write(value, out, config::standard());
    let len = out.len();
    let result = match result {
        Err(error) => Err(CodecError::Encode(error)),
        Ok(_) if len > MAX_ENCODED => Err(CodecError::TooLarge { len }),
        Ok(_) => Ok(()),
    };
    if result.is_err() {
        out.clear();
    }
    result
}

/// Decodes a value that takes up all of `bytes`.
///
/// # Errors
/// If `bytes` are longer than [`MAX_ENCODED`], are no `T`, or hold more than one `T`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let config = config::standard();
    if bytes.len() > MAX_ENCODED {
        return Err(CodecError::TooLarge { len: bytes.len() });
    }
    let (value, read) =
        bincode::serde::decode_from_slice(bytes, config.with_limit::<MAX_ENCODED>()).map_err(CodecError::Decode)?;
    match bytes.len() - read {
        0 => Ok(value),
        rest => Err(CodecError::TrailingBytes { rest }),
    }
}
