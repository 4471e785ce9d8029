//! Operations that wait for a frame: a lane for each kind, so that within a frame operations of one kind lie together
//! and the worker can do them as one job.
//!
//! Small ones are encoded where they wait, one behind the other, and need no memory of their own; what is large comes
//! encoded, and only its place is queued.

use std::collections::VecDeque;

use protocol::{
    codec::CodecError,
    ids::RequestId,
    message::{EncodedSubmission, OperationKind, append_operation},
};

use super::{MAX_BATCH_BYTES, Taken};

/// An operation that is about to be queued.
#[derive(Debug)]
pub enum NewOperation<'a> {
    /// Few bytes, which are encoded as it is queued.
    Small(RequestId, &'a OperationKind),
    /// Many: they were encoded before, so that nobody has to wait for it.
    Large(RequestId, EncodedSubmission),
}

/// The lanes.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    small: [Lane; OperationKind::COUNT],
    large: VecDeque<(RequestId, EncodedSubmission)>,
    /// Operations in all lanes.
    len: usize,
    /// The lane whose turn it is to be taken from first.
    turn: usize,
    /// A large one that needs a frame for itself has let others pass, and is next.
    large_is_next: bool,
}

/// Small operations of one kind.
#[derive(Debug, Default)]
struct Lane {
    items: VecDeque<Item>,
    /// Their bytes, from `begin` on.
    bytes: Vec<u8>,
    begin: usize,
}

#[derive(Debug)]
struct Item {
    id: RequestId,
    len: usize,
}

/// What may still be taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) count: usize,
    pub(super) bytes: usize,
}

/// An operation of more bytes is large.
const SMALL: usize = 4 << 10;

/// Most bytes of one operation: it must fit behind whatever else is in its frame.
const MAX_OPERATION: usize = EncodedSubmission::MAX - 2 * MAX_BATCH_BYTES;

/// An empty lane keeps a buffer of at most this size.
const KEPT: usize = 64 << 10;

impl<'a> NewOperation<'a> {
    /// Encodes it now if it is large.
    ///
    /// # Errors
    /// It is too large for any batch.
    pub fn new(id: RequestId, kind: &'a OperationKind) -> Result<Self, CodecError> {
        if kind.approximate_bytes() <= SMALL {
            return Ok(Self::Small(id, kind));
        }
        let bytes = EncodedSubmission::operation(id, kind)?;
        match bytes.size() {
            len if len > MAX_OPERATION => Err(CodecError::TooLarge { len, limit: MAX_OPERATION }),
            _ => Ok(Self::Large(id, bytes)),
        }
    }
}

impl Lanes {
    /// Queues an operation behind those of its kind.
    ///
    /// # Errors
    /// It can't be encoded.
    pub(super) fn push(&mut self, operation: NewOperation<'_>) -> Result<(), CodecError> {
        match operation {
            NewOperation::Small(id, kind) => self.small[kind.index()].push(id, kind)?,
            NewOperation::Large(id, bytes) => self.large.push_back((id, bytes)),
        }
        self.len += 1;
        Ok(())
    }

    /// Drops an operation that has not been taken; false if there is none with this id.
    pub(super) fn cancel(&mut self, id: RequestId) -> bool {
        let found = self.small.iter_mut().any(|lane| lane.cancel(id)) || {
            let place = self.large.iter().position(|(other, _)| *other == id);
            place.and_then(|place| self.large.remove(place)).is_some()
        };
        self.len -= usize::from(found);
        found
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Moves operations to `taken`, those of one kind together, as far as there is `room`: at least one if there is any
    /// at all. No kind waits for ever for another. A large one that would fill most of the room goes without others,
    /// which would have to wait until all of it has arrived.
    pub(super) fn take(&mut self, room: Room, taken: &mut Taken) {
        let large = self.large.front().map(|(_, bytes)| bytes.size());
        let beside = large.filter(|size| room.count > 1 && *size <= room.bytes / 2);
        let only_large = self.len == self.large.len();
        if large.is_some() && beside.is_none() && (only_large || self.large_is_next) {
            self.take_large(taken);
            self.large_is_next = false;
        } else {
            // What is set aside here is for the large ones.
            let (count, bytes) = beside.map_or((0, 0), |size| (1, size));
            let small = Room { count: room.count - count, bytes: room.bytes - bytes };
            let mut left = self.take_small(small, taken);
            left = Room { count: left.count + count, bytes: left.bytes + bytes };
            while left.count > 0 && self.large.front().is_some_and(|(_, it)| it.size() <= left.bytes) {
                left.spend(self.take_large(taken));
            }
            self.large_is_next = !self.large.is_empty();
        }
        self.len -= taken.operations.len();
    }

    /// Returns the room that is left. Each kind has its turn to be the first.
    fn take_small(&mut self, mut room: Room, taken: &mut Taken) -> Room {
        for offset in 0..self.small.len() {
            self.small[(self.turn + offset) % OperationKind::COUNT].take(&mut room, taken);
        }
        self.turn = (self.turn + 1) % OperationKind::COUNT;
        room
    }

    /// Returns the bytes that were taken.
    fn take_large(&mut self, taken: &mut Taken) -> usize {
        let Some((id, bytes)) = self.large.pop_front() else { return 0 };
        let size = bytes.size();
        taken.operations.push(id);
        taken.large.push(bytes);
        size
    }
}

impl Lane {
    fn push(&mut self, id: RequestId, kind: &OperationKind) -> Result<(), CodecError> {
        let before = self.bytes.len();
        append_operation(id, kind, &mut self.bytes)?;
        self.items.push_back(Item { id, len: self.bytes.len() - before });
        Ok(())
    }

    fn cancel(&mut self, id: RequestId) -> bool {
        let Some(place) = self.items.iter().position(|item| item.id == id) else { return false };
        let begin = self.begin + self.items.range(..place).map(|item| item.len).sum::<usize>();
        if let Some(item) = self.items.remove(place) {
            self.bytes.drain(begin..begin + item.len);
        }
        true
    }

    fn take(&mut self, room: &mut Room, taken: &mut Taken) {
        let begin = self.begin;
        while room.count > 0
            && let Some(&Item { id, len }) = self.items.front()
            && (len <= room.bytes || taken.operations.is_empty())
        {
            room.spend(len);
            self.begin += len;
            taken.operations.push(id);
            self.items.pop_front();
        }
        taken.small.extend_from_slice(&self.bytes[begin..self.begin]);
        if self.items.is_empty() {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT);
            self.begin = 0;
        } else if self.begin > KEPT {
            self.bytes.drain(..self.begin);
            self.begin = 0;
        }
    }
}

impl Room {
    fn spend(&mut self, bytes: usize) {
        self.count -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}
