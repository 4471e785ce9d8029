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
    /// The message is too large.
    #[error("a message of {len} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// Its encoded size in bytes.
        len: usize,
        /// Most bytes that it may have.
        limit: usize,
    },
    /// The value refused to be encoded.
    #[error("the message can't be encoded")]
    Encode(#[source] bincode::error::EncodeError),
    /// The bytes are not a message of this type.
    #[error("the bytes are not such a message")]
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
    append(value, out)
}

/// Encodes `value` behind what `out` holds already.
///
/// # Errors
/// If the encoded value is larger than [`MAX_ENCODED`]; `out` is as it was then.
pub fn append<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let begin = out.len();
    let result = bincode::serde::encode_into_std_write(value, out, config::standard());
    let len = out.len() - begin;
    let result = match result {
        Err(error) => Err(CodecError::Encode(error)),
        Ok(_) if len > MAX_ENCODED => Err(CodecError::TooLarge { len, limit: MAX_ENCODED }),
        Ok(_) => Ok(()),
    };
    if result.is_err() {
        out.truncate(begin);
    }
    result
}

/// Decodes a value that takes up all of `bytes`.
///
/// A length inside `bytes` that promises more than they hold makes it allocate at most 32 times their size
/// (or 32 KiB) before it is found out.
///
/// # Errors
/// If `bytes` are longer than [`MAX_ENCODED`], are no `T`, or hold more than one `T`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > MAX_ENCODED {
        return Err(CodecError::TooLarge { len: bytes.len(), limit: MAX_ENCODED });
    }
    // bincode allocates a string before it looks whether the input is that long, and its limit is a constant
    // of the type. Hence a few limits to choose from, by the number of binary digits of the input's size.
    match usize::BITS - bytes.len().leading_zeros() {
        0..=12 => decode_within::<T, { EXPANSION << 12 }>(bytes),
        13 | 14 => decode_within::<T, { EXPANSION << 14 }>(bytes),
        15 | 16 => decode_within::<T, { EXPANSION << 16 }>(bytes),
        17 | 18 => decode_within::<T, { EXPANSION << 18 }>(bytes),
        19 | 20 => decode_within::<T, { EXPANSION << 20 }>(bytes),
        21 | 22 => decode_within::<T, { EXPANSION << 22 }>(bytes),
        23 | 24 => decode_within::<T, { EXPANSION << 24 }>(bytes),
        _ => decode_within::<T, { EXPANSION * MAX_ENCODED }>(bytes),
    }
}

/// bincode counts decoded sizes against its limit, and the most that a byte of input can become is a `u64`.
const EXPANSION: usize = size_of::<u64>();

fn decode_within<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<T, CodecError> {
    let config = config::standard().with_limit::<LIMIT>();
    let (value, read) = bincode::serde::decode_from_slice(bytes, config).map_err(CodecError::Decode)?;
    match bytes.len() - read {
        0 => Ok(value),
        rest => Err(CodecError::TrailingBytes { rest }),
    }
}
