//! Keys and values on disk: of prefixes that this worker or an earlier one has computed.
//!
//! ```text
//! keep   engine ── bytes of a segment ──► writer thread ──► a file, in place of the least recently used ones
//! read   engine ── which segments? ─────► reader thread ──► checked bytes, one segment after the other ──► engine
//!
//! key of a segment = SHA-256(key of the one before it, its tokens);  of the first: of all that the numbers depend on
//! ```
//!
//! Files are read by nobody who needs other numbers: their names depend on the model, on how it is computed, and on every
//! token so far. They are verified when they are read. Losing one only means that its tokens are computed again, so that
//! nothing waits for the disk to have written.

mod folder;
mod key;
mod reader;
mod segment;
mod usage;
mod writer;

use std::{io, ops::Range, path::Path, sync::Arc};

use crossbeam_channel::{Receiver, Sender};

pub use self::usage::PrefixUsage;
use self::{folder::Folder, key::Key, reader::ReadRequest, usage::Counts, writer::Writer};
use crate::cache::Variant;

/// Tokens of a segment: what one file has.
pub const SEGMENT_TOKENS: usize = 128;

/// Bytes of segments that may be on their way in one direction.
const IN_FLIGHT_BYTES: usize = 256 << 20;

/// Segments of one model on disk, as its engine uses them.
#[derive(Debug)]
pub struct PrefixStore {
    /// Of the segment before the first.
    root: Key,
    folder: Arc<Folder>,
    counts: Arc<Counts>,
    writer: Writer,
    reads: Sender<ReadRequest>,
    /// Of keys and values.
    segment_bytes: usize,
}

/// What is kept, and where.
#[derive(Clone, Copy, Debug)]
pub struct PrefixStoreConfig<'a> {
    /// A folder of its own, which all workers of this machine may share.
    pub dir: &'a Path,
    /// Most bytes of all files in it.
    pub max_bytes: u64,
    /// What the numbers depend on, besides the tokens.
    pub identity: &'a str,
    /// Bytes of one token's keys and values.
    pub token_bytes: usize,
}

/// Segments on their way from the disk.
#[derive(Debug)]
pub struct Restoring {
    /// Tokens of the sequence before the next segment.
    pub len: usize,
    /// Keys and values of one segment after the other. It ends behind the last that could be read.
    pub segments: Receiver<Vec<u8>>,
}

impl PrefixStore {
    /// Uses the folder, and makes it if need be. `wake` is called whenever a [`Restoring`] has something new.
    ///
    /// # Errors
    /// The folder can't be made or written to, not even a single segment fits, or there are no threads.
    pub fn open(config: PrefixStoreConfig<'_>, wake: impl Fn() + Send + 'static) -> io::Result<Self> {
        let segment_bytes = SEGMENT_TOKENS.saturating_mul(config.token_bytes);
        let needed = segment::file_bytes(segment_bytes);
        if needed > config.max_bytes {
            let problem = format!("{needed} bytes are the least that is kept, and more than the limit");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let folder = Arc::new(Folder::open(config.dir, config.max_bytes)?);
        let in_flight = (IN_FLIGHT_BYTES / segment_bytes.max(1)).max(2);
        Ok(Self {
            root: Key::root(config.identity),
            writer: Writer::start(Arc::clone(&folder), in_flight)?,
            reads: reader::start(Arc::clone(&folder), wake)?,
            folder,
            counts: Arc::default(),
            segment_bytes,
        })
    }

    /// Begins to read what follows the first `known` of `tokens`, if anything of it is there. What is read may begin
    /// before `known`, and comes to no more tokens than there are.
    pub fn read(&self, (variant, tokens): (Variant, &[u32]), known: usize) -> Option<Restoring> {
        let known = known / SEGMENT_TOKENS;
        let keys: Vec<Key> = self.root.of(variant).chain(tokens).skip(known).collect();
        // Found out here, as nothing is there of most prompts.
        if !self.folder.contains(keys.first()?) {
            return None;
        }
        let len = known * SEGMENT_TOKENS;
        let tokens = tokens[len..][..keys.len() * SEGMENT_TOKENS].to_vec();
        let (request, segments) = self.request(keys, len, tokens);
        self.reads.send(request).ok()?;
        self.counts.count_read();
        Some(Restoring { len, segments })
    }

    /// So many of the tokens that were read are in memory now.
    pub fn count_tokens(&self, tokens: usize) {
        self.counts.count_tokens(tokens);
    }

    /// Says what is used of it, also to other threads.
    pub fn usage(&self) -> PrefixUsage {
        PrefixUsage::new(Arc::clone(&self.folder), Arc::clone(&self.counts))
    }

    fn request(&self, keys: Vec<Key>, len: usize, tokens: Vec<u32>) -> (ReadRequest, Receiver<Vec<u8>>) {
        let capacity = (IN_FLIGHT_BYTES / self.segment_bytes.max(1)).clamp(2, keys.len().max(2));
        let (answer, segments) = crossbeam_channel::bounded(capacity);
        let first = len / SEGMENT_TOKENS;
        (ReadRequest { keys, first, tokens, segment_bytes: self.segment_bytes, answer }, segments)
    }

    /// Keeps the segments of `tokens` that end within `range`, unless they are kept already. `export` gives keys and
    /// values of some of the tokens. Returns the end of the last that need not be offered again: fewer than could be, if
    /// the disk is too slow.
    pub fn keep(
        &self,
        (variant, tokens): (Variant, &[u32]),
        range: Range<usize>,
        mut export: impl FnMut(Range<usize>) -> Option<Vec<u8>>,
    ) -> usize {
        let (first, end) = (range.start / SEGMENT_TOKENS, range.end / SEGMENT_TOKENS);
        if first >= end {
            return range.start;
        }
        for (index, key) in
            self.root.of(variant).chain(&tokens[..end * SEGMENT_TOKENS]).enumerate().skip(first)
        {
            let start = index * SEGMENT_TOKENS;
            let own = start..start + SEGMENT_TOKENS;
            if self.folder.contains(&key) {
                continue;
            }
            if self.writer.is_full() {
                return start;
            }
            let Some(bytes) = export(own.clone()) else { return start };
            self.writer.write(key, index, tokens[own].to_vec(), bytes);
        }
        end * SEGMENT_TOKENS
    }
}

#[cfg(test)]
mod tests;
