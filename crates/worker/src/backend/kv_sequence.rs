//! What a sequence has of the memory for keys and values.

use std::ops::Range;

use super::{block_table::other_bytes, cpu, kv::KvError, mlx};

/// What one sequence has, kind by kind.
pub(crate) struct SequenceMemory {
    pub(super) kinds: Vec<KindSequence>,
}

/// What it has in the layers of one kind.
pub(super) enum KindSequence {
    Paged(cpu::PagedSequence),
    Gathered(mlx::GatheredSequence),
}

impl SequenceMemory {
    /// Gives back what only tokens from `len` on need.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.kinds.iter_mut().for_each(|kind| kind.truncate(len));
    }

    /// The memory of another sequence that begins with the first `len` tokens of this one. Nothing is copied until one of
    /// the two writes to what they share.
    pub(crate) fn fork(&self, len: usize) -> Self {
        Self { kinds: self.kinds.iter().map(|kind| kind.fork(len)).collect() }
    }

    /// How many of the first `len` tokens a sequence can go on behind.
    pub(crate) fn fork_point(&self, len: usize) -> usize {
        let mut at = len;
        loop {
            let before = at;
            at = self.kinds.iter().fold(at, |at, kind| kind.fork_point(at));
            // Where one kind can't go on, another one may have lost more.
            if at == before {
                return at;
            }
        }
    }

    /// The same as [`fork`](Self::fork), for a sequence that goes on; `None` if that has lost what a window reaches.
    pub(crate) fn resume(&self, len: usize) -> Option<Self> {
        Some(Self { kinds: self.kinds.iter().map(|kind| kind.resume(len)).collect::<Option<_>>()? })
    }

    /// Holds what another sequence has of windows that begins with the same `len` tokens, where its own is gone.
    pub(crate) fn adopt(&mut self, other: &Self, len: usize) {
        self.kinds.iter_mut().zip(&other.kinds).for_each(|(own, other)| own.adopt(other, len));
    }

    /// Keys and values of some tokens as bytes, one kind's behind the other's, which mean the same to every sequence of the
    /// same model and backend.
    ///
    /// # Errors
    /// The sequence does not have them, or they are not whole blocks.
    pub(crate) fn export(&self, tokens: Range<usize>) -> Result<Vec<u8>, KvError> {
        let mut bytes = Vec::with_capacity(self.bytes_of(tokens.len()));
        for kind in &self.kinds {
            bytes.extend(kind.export(tokens.clone())?);
        }
        Ok(bytes)
    }

    /// Appends the keys and values that [`export`](Self::export) gave of as many `tokens`.
    ///
    /// # Errors
    /// There is no memory for them, or they are others.
    pub(crate) fn import(&mut self, tokens: Range<usize>, mut bytes: &[u8]) -> Result<(), KvError> {
        if bytes.len() != self.bytes_of(tokens.len()) {
            return Err(other_bytes().into());
        }
        for kind in &mut self.kinds {
            let (own, rest) = bytes.split_at(kind.bytes_of(tokens.len()));
            kind.import(tokens.clone(), own)?;
            bytes = rest;
        }
        Ok(())
    }

    /// What a step has appended is there to stay.
    pub(crate) fn commit(&mut self) {
        for kind in &mut self.kinds {
            if let KindSequence::Gathered(sequence) = kind {
                sequence.commit();
            }
        }
    }

    fn bytes_of(&self, tokens: usize) -> usize {
        self.kinds.iter().map(|kind| kind.bytes_of(tokens)).fold(0, usize::saturating_add)
    }
}

impl KindSequence {
    pub(super) fn paged(&mut self) -> Option<&mut cpu::PagedSequence> {
        if let Self::Paged(sequence) = self { Some(sequence) } else { None }
    }

    pub(super) fn gathered(&mut self) -> Option<&mut mlx::GatheredSequence> {
        if let Self::Gathered(sequence) = self { Some(sequence) } else { None }
    }

    fn truncate(&mut self, len: usize) {
        match self {
            Self::Paged(sequence) => sequence.truncate(len),
            Self::Gathered(sequence) => sequence.truncate(len),
        }
    }

    fn fork(&self, len: usize) -> Self {
        match self {
            Self::Paged(sequence) => Self::Paged(sequence.fork(len)),
            Self::Gathered(sequence) => Self::Gathered(sequence.fork(len)),
        }
    }

    fn fork_point(&self, len: usize) -> usize {
        match self {
            Self::Paged(sequence) => sequence.fork_point(len),
            Self::Gathered(sequence) => sequence.fork_point(len),
        }
    }

    fn resume(&self, len: usize) -> Option<Self> {
        Some(match self {
            Self::Paged(sequence) => Self::Paged(sequence.resume(len)?),
            Self::Gathered(sequence) => Self::Gathered(sequence.resume(len)?),
        })
    }

    fn adopt(&mut self, other: &Self, len: usize) {
        match (self, other) {
            (Self::Paged(own), Self::Paged(other)) => own.adopt(other, len),
            (Self::Gathered(own), Self::Gathered(other)) => own.adopt(other, len),
            // They are of other models: nothing of the one is of use to the other.
            (Self::Paged(_), Self::Gathered(_)) | (Self::Gathered(_), Self::Paged(_)) => {}
        }
    }

    /// Bytes of the keys and values of so many whole blocks' tokens.
    fn bytes_of(&self, tokens: usize) -> usize {
        match self {
            Self::Paged(sequence) => sequence.bytes_of(tokens),
            Self::Gathered(sequence) => sequence.bytes_of(tokens),
        }
    }

    fn export(&self, tokens: Range<usize>) -> Result<Vec<u8>, KvError> {
        match self {
            Self::Paged(sequence) => sequence.export(tokens),
            Self::Gathered(sequence) => sequence.export(tokens),
        }
    }

    fn import(&mut self, tokens: Range<usize>, bytes: &[u8]) -> Result<(), KvError> {
        match self {
            Self::Paged(sequence) => sequence.import(tokens, bytes),
            Self::Gathered(sequence) => sequence.import(tokens, bytes),
        }
    }
}
