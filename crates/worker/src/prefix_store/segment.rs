//! The file of a segment.
//!
//! ```text
//!  0  "KRPREFIX"
//!  8  version   u32   1
//! 12  tokens    u32   how many
//! 16  bytes     u64   of keys and values
//! 24  key       32 bytes
//! 56  checksum  u32   CRC-32 of all other bytes
//! 60  the tokens, u32 each; then keys and values
//! ```
//! Integers are little-endian. The keys and values are in the machine's own order, which the key stands for.

use std::io::{self, Read, Write};

use crc32fast::Hasher;
use thiserror::Error;

use super::{SEGMENT_TOKENS, key::Key};

/// Why a file is not the segment that was looked for.
#[derive(Debug, Error)]
pub(super) enum SegmentError {
    /// It can't be read, or ends too early.
    #[error("it can't be read")]
    Io(#[from] io::Error),
    /// It begins with something else.
    #[error("its header is another segment's, or damaged")]
    Header,
    /// Something in it has changed since it was written.
    #[error("its checksum is wrong")]
    Checksum,
    /// More follows.
    #[error("it is too long")]
    TooLong,
}

const MAGIC: &[u8; 8] = b"KRPREFIX";
const VERSION: u32 = 1;
/// Everything before the checksum.
const CHECKED: usize = 56;
const HEADER: usize = CHECKED + 4;
const TOKENS: usize = 4 * SEGMENT_TOKENS;

/// Bytes of a file with so many of keys and values.
pub(super) fn file_bytes(kv_bytes: usize) -> u64 {
    (HEADER + TOKENS + kv_bytes) as u64
}

/// Writes the file of a segment.
pub(super) fn write(key: &Key, tokens: &[u32], kv: &[u8], file: &mut impl Write) -> io::Result<()> {
    let begin = begin(key, kv.len());
    let tokens = token_bytes(tokens);
    let checksum = checksum(&begin, &tokens, kv);
    let head = [&begin[..], &checksum.to_le_bytes(), &tokens].concat();
    file.write_all(&head)?;
    file.write_all(kv)
}

/// Reads `kv_bytes` bytes of keys and values: of exactly this segment, as they were written.
pub(super) fn read(
    key: &Key,
    tokens: &[u32],
    kv_bytes: usize,
    file: &mut impl Read,
) -> Result<Vec<u8>, SegmentError> {
    let (begin, tokens) = (begin(key, kv_bytes), token_bytes(tokens));
    let mut head = [0; HEADER + TOKENS];
    file.read_exact(&mut head)?;
    let (found, rest) = head.split_at(CHECKED);
    let (sum, found_tokens) = rest.split_at(HEADER - CHECKED);
    if found != begin || found_tokens != tokens {
        return Err(SegmentError::Header);
    }
    let mut kv = vec![0; kv_bytes];
    file.read_exact(&mut kv)?;
    if sum != checksum(&begin, &tokens, &kv).to_le_bytes() {
        return Err(SegmentError::Checksum);
    }
    match file.read(&mut [0])? {
        0 => Ok(kv),
        _ => Err(SegmentError::TooLong),
    }
}

/// What a file of this segment begins with.
fn begin(key: &Key, kv_bytes: usize) -> [u8; CHECKED] {
    let mut begin = [0; CHECKED];
    begin[..8].copy_from_slice(MAGIC);
    begin[8..12].copy_from_slice(&VERSION.to_le_bytes());
    begin[12..16].copy_from_slice(&(SEGMENT_TOKENS as u32).to_le_bytes());
    begin[16..24].copy_from_slice(&(kv_bytes as u64).to_le_bytes());
    begin[24..].copy_from_slice(&key.0);
    begin
}

fn token_bytes(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_le_bytes()).collect()
}

fn checksum(begin: &[u8], tokens: &[u8], kv: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    [begin, tokens, kv].iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}
