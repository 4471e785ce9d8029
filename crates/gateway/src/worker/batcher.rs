//! Stage *batch*: submissions become [`Batch`](protocol::message::Batch)es. Pure: time comes in as an argument.
//!
//! Whatever is queued goes in one frame, up to `max_batch_size`. A hold window may let a submission
//! wait for others; it is 0 by default, because a busy link batches by itself: while one frame is
//! written, the next one's submissions gather.
//!
//! The queue is bounded without refusing anything: a live stream has at most one `Generate`, one
//! `Cancel` and one (summed) `Credit` in it, admission bounds the live streams, and a stream that
//! is cancelled before it was shipped leaves nothing behind.

use std::{
    collections::{HashSet, VecDeque},
    time::Instant,
};

use protocol::{
    codec::CodecError,
    ids::RequestId,
    message::{EncodedSubmission, Generate, Submission, encode_batch},
};

use crate::config::BatchQueue;

/// A submission on its way to the worker. A request is encoded before it is queued: then its size is exact, and one
/// that can't be sent fails alone.
#[derive(Debug, PartialEq, Eq)]
pub enum Queued {
    /// [`Submission::Generate`].
    Generate {
        /// The stream.
        id: RequestId,
        /// The whole submission.
        bytes: EncodedSubmission,
    },
    /// [`Submission::Cancel`].
    Cancel(RequestId),
    /// [`Submission::Credit`].
    Credit {
        /// The stream.
        id: RequestId,
        /// Chunks that may be sent in addition.
        chunks: u32,
    },
    /// [`Submission::Drain`].
    Drain,
}

/// Submissions that were not taken yet, in order.
#[derive(Debug)]
pub struct Batcher {
    settings: BatchQueue,
    queue: VecDeque<Queued>,
    /// When the submission that waits longest came.
    oldest: Option<Instant>,
}

/// What to do with a [`Batcher`] now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing is queued.
    Idle,
    /// Others may still join; look again then, or when something is pushed.
    HoldUntil(Instant),
    /// Take a batch.
    Ship,
}

/// Large requests are split over batches, so that a worker soon has the first of them. A single request may be larger.
const MAX_BATCH_BYTES: usize = 4 << 20;

impl Queued {
    /// A request for text.
    ///
    /// # Errors
    /// It is too large for any batch.
    pub fn generate(generate: Generate) -> Result<Self, CodecError> {
        let id = generate.id;
        let bytes = EncodedSubmission::new(&Submission::Generate(Box::new(generate)))?;
        Ok(Self::Generate { id, bytes })
    }

    /// The stream whose request it is.
    pub fn request(&self) -> Option<RequestId> {
        match self {
            Self::Generate { id, .. } => Some(*id),
            Self::Cancel(_) | Self::Credit { .. } | Self::Drain => None,
        }
    }

    fn encode(self) -> Result<EncodedSubmission, CodecError> {
        match self {
            Self::Generate { bytes, .. } => Ok(bytes),
            Self::Cancel(id) => EncodedSubmission::new(&Submission::Cancel(id)),
            Self::Credit { id, chunks } => EncodedSubmission::new(&Submission::Credit { id, chunks }),
            Self::Drain => EncodedSubmission::new(&Submission::Drain),
        }
    }

    /// Encoded bytes; for all but requests, the most that they can be.
    fn size(&self) -> usize {
        /// A variant and two integers of up to 9 bytes.
        const SMALL: usize = 19;
        match self {
            Self::Generate { bytes, .. } => bytes.size(),
            Self::Cancel(_) | Self::Credit { .. } | Self::Drain => SMALL,
        }
    }
}

impl Batcher {
    /// An empty queue.
    pub fn new(settings: BatchQueue) -> Self {
        Self { settings, queue: VecDeque::new(), oldest: None }
    }

    /// Queues a submission, or folds it into what is queued.
    pub fn push(&mut self, queued: Queued, now: Instant) {
        match queued {
            Queued::Cancel(id) if self.forget(id) => return,
            Queued::Credit { id, chunks } if self.add_credit(id, chunks) => return,
            queued => self.queue.push_back(queued),
        }
        self.oldest.get_or_insert(now);
    }

    /// What to do at `now`.
    pub fn next(&self, now: Instant) -> Next {
        let Some(oldest) = self.oldest else { return Next::Idle };
        let due = oldest + self.settings.flush_interval;
        if self.queue.len() >= self.settings.max_batch_size || now >= due {
            Next::Ship
        } else {
            Next::HoldUntil(due)
        }
    }

    /// The longest waiting submissions, at most `max_batch_size` and `MAX_BATCH_BYTES`, but at least one. What remains
    /// is due as before.
    pub fn take(&mut self) -> Vec<Queued> {
        let mut bytes = 0;
        let fits = |queued: &&Queued| {
            let first = bytes == 0;
            bytes += queued.size();
            first || bytes <= MAX_BATCH_BYTES
        };
        let count = self.queue.iter().take(self.settings.max_batch_size).take_while(fits).count();
        let taken = self.queue.drain(..count).collect();
        if self.queue.is_empty() {
            self.oldest = None;
        }
        taken
    }

    /// The streams whose requests are queued.
    pub fn requests(&self) -> HashSet<RequestId> {
        self.queue.iter().filter_map(Queued::request).collect()
    }

    /// Submissions queued.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Drops what is queued for `id`; true if its request was among that, so that the worker needs no cancel.
    fn forget(&mut self, id: RequestId) -> bool {
        let before = self.queue.len();
        self.queue.retain(|s| !matches!(s, Queued::Generate { id: other, .. } if *other == id));
        let unsent = self.queue.len() < before;
        self.queue.retain(|s| !matches!(s, Queued::Credit { id: other, .. } if *other == id));
        if self.queue.is_empty() {
            self.oldest = None;
        }
        unsent
    }

    /// Adds to credit that is queued for `id`; false if there is none.
    fn add_credit(&mut self, id: RequestId, more: u32) -> bool {
        for submission in &mut self.queue {
            if let Queued::Credit { id: other, chunks } = submission
                && *other == id
            {
                *chunks = chunks.saturating_add(more);
                return true;
            }
        }
        false
    }
}

/// Encodes what was taken into `body`, as one batch.
///
/// # Errors
/// Never for what a [`Batcher`] gave: sizes were looked at before.
pub fn encode(taken: Vec<Queued>, body: &mut Vec<u8>) -> Result<(), CodecError> {
    let parts = taken.into_iter().map(Queued::encode).collect::<Result<Vec<_>, _>>()?;
    encode_batch(&parts, body)
}

#[cfg(test)]
mod tests;
