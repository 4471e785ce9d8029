//! Bodies in checked frames over a ring.
//!
//! ```text
//!  0  length   u32   bytes of this part, padding not counted
//!  4  kind     u8    1 Batch, 2 Report
//!  5  flags    u8    1: more parts follow
//!  6  zero     u16
//!  8  incarnation  u64
//! 16  offset   u32   bytes of the body in earlier parts
//! 20  checksum u32   CRC-32 of all above, the part and its padding
//! 24  the part, padded with zeros to a multiple of 8 bytes
//! ```
//! Integers are little-endian. Header and part are published at once: a reader never sees half of either, and
//! what a killed writer had not published is not there.
//!
//! A body that does not fit into the ring's free space travels in parts. The sender then waits for
//! space as the receiver waits for frames, and each wakes the other with a [`BELL`].

use crate::{
    codec::MAX_ENCODED,
    ids::Incarnation,
    shm::{Armed, Consumer, Producer, RingError},
};

#[cfg(test)]
mod tests;

/// The byte that is written to the handshake's socket, in either direction, to say "look at both rings": there may
/// be a frame to receive, or space for one that was waiting. Many bells may be answered as one, and one may turn
/// out to be for nothing. The receiver of a bell ignores the byte's value.
///
/// The socket's end, or `ConnectionReset` where bells were left unread, says that the peer is dead: receive what is still
/// in the ring, then end the incarnation.
pub const BELL: u8 = b'!';

/// Most bytes of a body.
pub const MAX_BODY: usize = MAX_ENCODED;

/// Bytes before a part.
pub const HEADER_LEN: usize = 24;

const MORE: u8 = 1;

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// An encoded [`Batch`](crate::message::Batch): gateway to worker.
    Batch = 1,
    /// An encoded [`Report`](crate::message::Report): worker to gateway.
    Report = 2,
}

/// A whole body, as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: FrameKind,
    /// Its bytes, copied out of the shared memory.
    pub body: &'a [u8],
}

/// What became of [`FrameSender::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the peer may have to be woken"]
pub enum Sent {
    /// The whole body is in the ring.
    Done {
        /// The peer sleeps: write a [`BELL`] to it.
        ring_bell: bool,
    },
    /// The ring is full. The receiver will ring when there is space; call again then.
    Full {
        /// The peer sleeps: write a [`BELL`] to it.
        ring_bell: bool,
    },
}

/// Why frames can't be sent or received. All but [`TooLarge`](Self::TooLarge) and
/// [`Unfinished`](Self::Unfinished) end the incarnation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The body is larger than the sender may send.
    #[error("a body of {len} bytes is over the limit of {max} bytes")]
    TooLarge {
        /// In bytes.
        len: usize,
        /// In bytes.
        max: usize,
    },
    /// `send` was called with another body while one was only partly sent.
    #[error("another body of {len} bytes is still being sent")]
    Unfinished {
        /// That body's size in bytes.
        len: usize,
    },
    /// The ring can't be used.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// What the peer wrote is no frame.
    #[error("frame is corrupt: {what}")]
    Corrupt {
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Sends bodies; over one ring, in one direction.
pub struct FrameSender {
    producer: Producer,
    incarnation: Incarnation,
    max_body: usize,
    /// A body of which some parts may be in the ring.
    pending: Option<Pending>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Pending {
    kind: FrameKind,
    len: usize,
    sent: usize,
}

impl FrameSender {
    /// A sender for this end of a new ring.
    ///
    /// # Panics
    /// If the ring is smaller than the smallest frame.
    pub fn new(producer: Producer, incarnation: Incarnation) -> Self {
        assert!(producer.capacity() > HEADER_LEN, "a ring has room for a header and some data");
        Self { producer, incarnation, max_body: MAX_BODY, pending: None }
    }

    /// Sends only bodies of at most `max` bytes: fewer than [`MAX_BODY`].
    pub fn with_max_body(self, max: usize) -> Self {
        Self { max_body: max.min(MAX_BODY), ..self }
    }

    /// Most bytes of a body.
    pub fn max_body(&self) -> usize {
        self.max_body
    }

    /// Copies as much of `body` as fits. After [`Sent::Full`], call again with the same kind and body once the
    /// reader has rung; what was copied is not copied again. Never blocks.
    ///
    /// # Errors
    /// If the body is too large, is not the one that was begun, or the peer has broken the ring.
    pub fn send(&mut self, kind: FrameKind, body: &[u8]) -> Result<Sent, FrameError> {
        let len = body.len();
        if len > self.max_body {
            return Err(FrameError::TooLarge { len, max: self.max_body });
        }
        let mut pending = match self.pending {
            None => Pending { kind, len, sent: 0 },
            Some(pending) if (pending.kind, pending.len) == (kind, len) => pending,
            Some(pending) => return Err(FrameError::Unfinished { len: pending.len }),
        };
        let mut ring_bell = false;
        loop {
            let rest = &body[pending.sent..];
            let wanted = self.least_free(rest.len());
            let free = self.producer.free(wanted)?;
            if free < wanted {
                self.pending = Some(pending);
                if self.producer.arm(wanted)? {
                    continue;
                }
                return Ok(Sent::Full { ring_bell });
            }
            let part = &rest[..rest.len().min(free - HEADER_LEN)];
            let more = part.len() < rest.len();
            let header = Header {
                len: part.len() as u32,
                kind: kind as u8,
                flags: if more { MORE } else { 0 },
                reserved: 0,
                incarnation: self.incarnation,
                offset: pending.sent as u32,
            };
            ring_bell |= self.producer.push(&[&header.to_bytes(part), part])?;
            pending.sent += part.len();
            if !more {
                self.pending = None;
                return Ok(Sent::Done { ring_bell });
            }
        }
    }

    /// Free bytes that are worth a part: room for all the `rest`, or for a fair share of the ring. A ring that is
    /// almost full would otherwise be given tiny pieces.
    fn least_free(&self, rest: usize) -> usize {
        let whole = HEADER_LEN + rest.next_multiple_of(8);
        whole.min((self.producer.capacity() / 4).max(HEADER_LEN + 8))
    }
}

/// Receives bodies; over one ring, in one direction.
pub struct FrameReceiver {
    consumer: Consumer,
    incarnation: Incarnation,
    max_body: usize,
    /// Only grows, so that it is not cleared each time; the body is the first `filled` bytes.
    buffer: Vec<u8>,
    filled: usize,
    /// Of the body of which some parts, but not all, have come.
    partial: Option<FrameKind>,
    owed_bell: bool,
}

impl FrameReceiver {
    /// A receiver for this end of a new ring.
    pub fn new(consumer: Consumer, incarnation: Incarnation) -> Self {
        Self {
            consumer,
            incarnation,
            max_body: MAX_BODY,
            buffer: Vec::new(),
            filled: 0,
            partial: None,
            owed_bell: false,
        }
    }

    /// Takes only bodies of at most `max` bytes: fewer than [`MAX_BODY`].
    pub fn with_max_body(self, max: usize) -> Self {
        Self { max_body: max.min(MAX_BODY), ..self }
    }

    /// The next whole body, copied out of the ring into a buffer that is reused; `None` if there is none (yet).
    /// Frames of another incarnation are skipped. Never blocks, and returns after about a ring's size of bytes even
    /// if the writer keeps up. After each call, see to [`take_owed_bell`](Self::take_owed_bell).
    ///
    /// # Errors
    /// If the peer has broken the ring or a frame: the incarnation is to be ended.
    pub fn try_recv(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let mut budget = self.consumer.capacity();
        while budget > 0 {
            let available = self.consumer.available()?;
            if available == 0 {
                break;
            }
            let (header, taken) = self.copy_part(available)?;
            self.owed_bell |= self.consumer.release(taken);
            budget = budget.saturating_sub(taken);
            if header.incarnation == self.incarnation
                && let Some(kind) = self.add_part(&header)?
            {
                return Ok(Some(Frame { kind, body: &self.buffer[..self.filled] }));
            }
        }
        Ok(None)
    }

    /// True once after space was freed while the writer waited for it: the caller must write a [`BELL`] to it.
    pub fn take_owed_bell(&mut self) -> bool {
        std::mem::take(&mut self.owed_bell)
    }

    /// Announces that the reader goes to sleep. [`Armed::Ready`] means that it must not, and call
    /// [`try_recv`](Self::try_recv) instead: data came meanwhile, or the ring is broken and an error waits there.
    pub fn arm(&mut self) -> Armed {
        self.consumer.arm().unwrap_or(Armed::Ready)
    }

    /// Copies the next frame's part to the end of `buffer` and checks its sum. Returns its header and its whole size.
    fn copy_part(&mut self, available: usize) -> Result<(Header, usize), FrameError> {
        let corrupt = |what| Err(FrameError::Corrupt { what });
        if available < HEADER_LEN {
            return corrupt("its header is cut off");
        }
        let mut bytes = [0; HEADER_LEN];
        self.consumer.copy_out(0, &mut bytes);
        let (header, checksum) = Header::from_bytes(&bytes);
        let padded = (header.len as usize).next_multiple_of(8);
        if padded > available - HEADER_LEN {
            return corrupt("it is longer than what was written");
        }
        if self.partial.is_none() {
            self.filled = 0;
        }
        // At most `max_body`, which add_part looks after, and one ring.
        let end = self.filled + padded;
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        let part = &mut self.buffer[self.filled..end];
        self.consumer.copy_out(HEADER_LEN, part);
        if header.checksum(part) != checksum {
            return corrupt("its checksum does not match");
        }
        Ok((header, HEADER_LEN + padded))
    }

    /// Counts a part of this incarnation in. Returns the body's kind if it was the last.
    fn add_part(&mut self, header: &Header) -> Result<Option<FrameKind>, FrameError> {
        let corrupt = |what| Err(FrameError::Corrupt { what });
        let kind = match header.kind {
            1 => FrameKind::Batch,
            2 => FrameKind::Report,
            _ => return corrupt("its kind is unknown"),
        };
        let more = match header.flags {
            0 => false,
            MORE => true,
            _ => return corrupt("its flags are unknown"),
        };
        if header.reserved != 0 {
            return corrupt("its reserved bytes are used");
        }
        if header.offset as usize != self.filled || self.partial.is_some_and(|begun| begun != kind) {
            return corrupt("it does not continue what came before");
        }
        if more && header.len == 0 {
            return corrupt("it is empty but not the last part");
        }
        self.filled += header.len as usize;
        if self.filled > self.max_body {
            return corrupt("its body is over the limit");
        }
        self.partial = more.then_some(kind);
        Ok((!more).then_some(kind))
    }
}

/// A frame's header, without its checksum.
struct Header {
    len: u32,
    kind: u8,
    flags: u8,
    reserved: u16,
    incarnation: Incarnation,
    offset: u32,
}

impl Header {
    /// With the checksum, which covers `part` and its padding.
    fn to_bytes(&self, part: &[u8]) -> [u8; HEADER_LEN] {
        let padding = part.len().next_multiple_of(8) - part.len();
        let mut hasher = self.hasher(part);
        hasher.update(&[0; 8][..padding]);
        let mut bytes = [0; HEADER_LEN];
        bytes[..20].copy_from_slice(&self.summed_bytes());
        bytes[20..].copy_from_slice(&hasher.finalize().to_le_bytes());
        bytes
    }

    /// The header and the checksum that it claims.
    fn from_bytes(bytes: &[u8; HEADER_LEN]) -> (Self, u32) {
        let [l0, l1, l2, l3, kind, flags, r0, r1, i @ .., o0, o1, o2, o3, c0, c1, c2, c3] = *bytes;
        let header = Self {
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            kind,
            flags,
            reserved: u16::from_le_bytes([r0, r1]),
            incarnation: Incarnation(u64::from_le_bytes(i)),
            offset: u32::from_le_bytes([o0, o1, o2, o3]),
        };
        (header, u32::from_le_bytes([c0, c1, c2, c3]))
    }

    fn checksum(&self, padded_part: &[u8]) -> u32 {
        self.hasher(padded_part).finalize()
    }

    fn hasher(&self, part: &[u8]) -> crc32fast::Hasher {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.summed_bytes());
        hasher.update(part);
        hasher
    }

    fn summed_bytes(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&self.len.to_le_bytes());
        bytes[4] = self.kind;
        bytes[5] = self.flags;
        bytes[6..8].copy_from_slice(&self.reserved.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.incarnation.0.to_le_bytes());
        bytes[16..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }
}
