//! A byte ring with one writer and one reader, which may be in different processes.
//!
//! Positions count bytes since the start and never wrap; a byte's place is its position modulo the capacity.
//! `head` is where the writer goes on and is stored by it alone, `tail` likewise for the reader, so
//! `tail <= head <= tail + capacity`. Everything is a multiple of 8 bytes long.
//!
//! Each side knows its own position by itself and only *loads* the other's: once, into a local, which is checked
//! against the last one seen before anything is done with it. What a peer breaks is an error, never a wild access.
//!
//! ```text
//!  pair  writer                                reader
//!  (A)   copy in, store head (Release)    ->   load head (Acquire), copy out
//!  (B)   load tail (Acquire), overwrite   <-   copy out, store tail (Release)
//!  (C)   store head, fence, test           X   set reader_waiting, fence, load head
//!        reader_waiting
//!  (D)   set writer_waiting, fence,        X   store tail, fence, test writer_waiting
//!        load tail
//! ```
//! (C) and (D) are store-then-load on both sides with a `SeqCst` fence between, so at least one side sees the
//! other's store: the sleeper that there is no reason to sleep, or the waker that there is someone to wake. As both sides
//! change a flag, they only swap it: a change comes right after the one that it saw, and there is no doubt which was last.

use std::sync::{Arc, atomic::Ordering};

use super::sync::{AtomicU32, AtomicU64, Word, fence};

#[cfg(test)]
mod tests;

/// Bytes of a [`Word`]; all lengths and positions are multiples of it.
pub(crate) const WORD: usize = size_of::<u64>();

/// What both sides of a ring share, besides its data. Lives in the segment: all zeros is a new ring.
#[repr(C)]
pub(crate) struct Control {
    /// Position after the last published byte. Stored by the writer.
    pub(crate) head: Line<AtomicU64>,
    /// Position of the first byte that may not be overwritten. Stored by the reader.
    pub(crate) tail: Line<AtomicU64>,
    /// 1 while the reader sleeps or is about to: who takes it back to 0 must ring.
    pub(crate) reader_waiting: Line<AtomicU32>,
    /// 1 while the writer sleeps or is about to: who takes it back to 0 must ring.
    pub(crate) writer_waiting: Line<AtomicU32>,
}

/// Keeps neighbours from sharing a cache line (or a pair of lines that is fetched together).
#[repr(C, align(128))]
pub(crate) struct Line<T>(pub(crate) T);

/// Where a ring lives.
pub(crate) trait RingMemory: Send + Sync {
    fn control(&self) -> &Control;
    /// The data; its length is a power of two and never changes.
    fn words(&self) -> &[Word];
}

/// The writing end of a ring.
pub struct Producer {
    memory: Arc<dyn RingMemory>,
    capacity: u64,
    /// Ours: the shared one is only ever stored.
    head: u64,
    /// The last valid one seen.
    tail: u64,
}

/// The reading end of a ring.
pub struct Consumer {
    memory: Arc<dyn RingMemory>,
    capacity: u64,
    /// The last valid one seen.
    head: u64,
    /// Ours: the shared one is only ever stored.
    tail: u64,
}

/// Whether the reader may go to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "sleeping without looking at it may last for ever"]
pub enum Armed {
    /// There is nothing, and the writer will ring when there is.
    Sleep,
    /// Something came meanwhile: read it.
    Ready,
}

/// What can go wrong in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The peer's position is impossible. It crashed in a bad way or is hostile; start another incarnation.
    #[error("shared memory is corrupt: the peer's {index} went from {last} to {found}, with ours at {own}")]
    Corrupt {
        /// `head` or `tail`.
        index: &'static str,
        /// The last valid value.
        last: u64,
        /// The value found.
        found: u64,
        /// Our own position.
        own: u64,
    },
    /// More was given to be written than there is room for.
    #[error("{wanted} bytes do not fit the {free} free bytes of the ring")]
    NoRoom {
        /// In bytes, padding included.
        wanted: usize,
        /// In bytes.
        free: usize,
    },
}

impl Producer {
    pub(crate) fn new(memory: Arc<dyn RingMemory>) -> Self {
        let capacity = capacity(&*memory);
        Self { memory, capacity, head: 0, tail: 0 }
    }

    /// Data bytes of the ring.
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Bytes that can be written at once. Looks at the reader's position only if `wanted` were not known to be free.
    ///
    /// # Errors
    /// If the reader's position is impossible.
    pub fn free(&mut self, wanted: usize) -> Result<usize, RingError> {
        if self.known_free() < wanted {
            // (B) The reader has copied out what lies before this tail.
            let tail = self.memory.control().tail.0.load(Ordering::Acquire);
            let forward = tail.wrapping_sub(self.tail);
            if forward > self.head - self.tail || !tail.is_multiple_of(WORD as u64) {
                return Err(RingError::Corrupt {
                    index: "tail",
                    last: self.tail,
                    found: tail,
                    own: self.head,
                });
            }
            self.tail = tail;
        }
        Ok(self.known_free())
    }

    /// Writes all `pieces` and publishes them together. Each piece is padded with zeros to a multiple of 8 bytes.
    /// True if the reader must be rung for.
    ///
    /// # Errors
    /// If they do not fit: nothing is written then.
    pub fn push(&mut self, pieces: &[&[u8]]) -> Result<bool, RingError> {
        let wanted = pieces.iter().map(|piece| piece.len().next_multiple_of(WORD)).sum();
        let free = self.free(wanted)?;
        if free < wanted {
            return Err(RingError::NoRoom { wanted, free });
        }
        let mut position = self.head;
        for piece in pieces {
            self.copy_in(position, piece);
            position += piece.len().next_multiple_of(WORD) as u64;
        }
        self.head = position;
        let control = self.memory.control();
        // (A) The pieces are there for a reader that sees this head.
        control.head.0.store(position, Ordering::Release);
        // (C)
        fence(Ordering::SeqCst);
        Ok(take(&control.reader_waiting.0))
    }

    /// Announces that the writer waits for space. True if `wanted` bytes became free meanwhile: then it must not.
    ///
    /// # Errors
    /// If the reader's position is impossible.
    pub fn arm(&mut self, wanted: usize) -> Result<bool, RingError> {
        self.memory.control().writer_waiting.0.swap(1, Ordering::Relaxed);
        // (D)
        fence(Ordering::SeqCst);
        let ready = self.free(wanted)? >= wanted;
        if ready {
            // If the reader was faster, it rings once for nothing.
            self.memory.control().writer_waiting.0.swap(0, Ordering::Relaxed);
        }
        Ok(ready)
    }

    fn known_free(&self) -> usize {
        (self.capacity - (self.head - self.tail)) as usize
    }

    fn copy_in(&self, position: u64, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<WORD>();
        let mut padded = [0; WORD];
        padded[..rest.len()].copy_from_slice(rest);
        let padded = (!rest.is_empty()).then_some(&padded);
        let places = places(self.memory.words(), position, bytes.len().div_ceil(WORD));
        for (place, word) in places.zip(words.iter().chain(padded)) {
            place.store(*word);
        }
    }
}

impl Consumer {
    pub(crate) fn new(memory: Arc<dyn RingMemory>) -> Self {
        let capacity = capacity(&*memory);
        Self { memory, capacity, head: 0, tail: 0 }
    }

    /// Data bytes of the ring.
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Bytes that can be read at once. Looks at the writer's position only if none were known to be there.
    ///
    /// # Errors
    /// If the writer's position is impossible.
    pub fn available(&mut self) -> Result<usize, RingError> {
        if self.head == self.tail {
            // (A) What lies before this head has been copied in.
            let head = self.memory.control().head.0.load(Ordering::Acquire);
            // Here head == tail, so "not backwards" and "not over capacity" are one comparison.
            if head.wrapping_sub(self.tail) > self.capacity || !head.is_multiple_of(WORD as u64) {
                return Err(RingError::Corrupt {
                    index: "head",
                    last: self.head,
                    found: head,
                    own: self.tail,
                });
            }
            self.head = head;
        }
        Ok((self.head - self.tail) as usize)
    }

    /// Copies bytes out, from `offset` bytes after the first unread one. Both lengths are multiples of 8.
    ///
    /// # Panics
    /// If they are not, or reach over what is [`available`](Self::available).
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) {
        let (words, rest) = out.as_chunks_mut::<WORD>();
        assert!(offset.is_multiple_of(WORD) && rest.is_empty(), "lengths are multiples of {WORD}");
        assert!((offset + words.len() * WORD) as u64 <= self.head - self.tail, "only what is available");
        let places = places(self.memory.words(), self.tail + offset as u64, words.len());
        for (word, place) in words.iter_mut().zip(places) {
            *word = place.load();
        }
    }

    /// Gives the first `len` unread bytes (a multiple of 8) back to the writer. True if it must be rung for.
    ///
    /// # Panics
    /// If `len` is not a multiple of 8 or is more than what is [`available`](Self::available).
    pub fn release(&mut self, len: usize) -> bool {
        assert!(len.is_multiple_of(WORD) && len as u64 <= self.head - self.tail, "only what is available");
        self.tail += len as u64;
        let control = self.memory.control();
        // (B) We are done with what lies before this tail.
        control.tail.0.store(self.tail, Ordering::Release);
        // (D)
        fence(Ordering::SeqCst);
        take(&control.writer_waiting.0)
    }

    /// Announces that the reader goes to sleep.
    ///
    /// # Errors
    /// If the writer's position is impossible.
    pub fn arm(&mut self) -> Result<Armed, RingError> {
        self.memory.control().reader_waiting.0.swap(1, Ordering::Relaxed);
        // (C)
        fence(Ordering::SeqCst);
        if self.available()? == 0 {
            return Ok(Armed::Sleep);
        }
        // If the writer was faster, it rings once for nothing.
        self.memory.control().reader_waiting.0.swap(0, Ordering::Relaxed);
        Ok(Armed::Ready)
    }
}

/// A ring within this process: for tests, and for the model checker.
///
/// # Panics
/// If `capacity` is not a power of two of at least 8 bytes.
pub fn heap_ring(capacity: usize) -> (Producer, Consumer) {
    let memory = Arc::new(HeapRing::new(capacity));
    (Producer::new(memory.clone()), Consumer::new(memory))
}

/// A ring that no other process sees.
pub(crate) struct HeapRing {
    control: Control,
    words: Box<[Word]>,
}

impl HeapRing {
    pub(crate) fn new(capacity: usize) -> Self {
        assert!(capacity.is_power_of_two() && capacity >= WORD, "a power of two");
        let control = Control {
            head: Line(AtomicU64::new(0)),
            tail: Line(AtomicU64::new(0)),
            reader_waiting: Line(AtomicU32::new(0)),
            writer_waiting: Line(AtomicU32::new(0)),
        };
        Self { control, words: (0..capacity / WORD).map(|_| Word::new()).collect() }
    }
}

impl RingMemory for HeapRing {
    fn control(&self) -> &Control {
        &self.control
    }

    fn words(&self) -> &[Word] {
        &self.words
    }
}

fn capacity(memory: &dyn RingMemory) -> u64 {
    (memory.words().len() * WORD) as u64
}

/// The `count` places from `position` on, around the end.
fn places(words: &[Word], position: u64, count: usize) -> impl Iterator<Item = &Word> {
    let start = (position / WORD as u64) as usize & (words.len() - 1);
    let straight = count.min(words.len() - start);
    words[start..start + straight].iter().chain(&words[..count - straight])
}

/// Takes a waiting flag back; true if it was set. Only then is it written, so that it stays in both caches.
fn take(waiting: &AtomicU32) -> bool {
    waiting.load(Ordering::Relaxed) != 0 && waiting.swap(0, Ordering::Relaxed) != 0
}
