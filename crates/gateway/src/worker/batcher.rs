//! Stage *batch*: submissions become [`Batch`](protocol::message::Batch)es. Pure: time comes in as an argument.
//!
//! Whatever is queued goes in one frame, up to `max_batch_size`: a busy link batches by itself, since the next frame's
//! submissions gather while one is written. A hold window, which is 0 by default, may let a submission wait for others
//! where others are likely to come (`batcher/hold.rs`).
//!
//! ```text
//! a frame:   requests, cancels, credits in their order │ operations, one kind after the other │ drain
//! ```
//!
//! The queue is bounded without refusing anything: a live stream has at most one `Generate`, one `Cancel` and one
//! (summed) `Credit` in it, an operation itself or its `Cancel`; admission bounds both, and what is cancelled before it
//! was shipped leaves nothing behind.

mod hold;
mod lanes;
mod taken;

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use protocol::{
    codec::CodecError,
    ids::RequestId,
    message::{EncodedSubmission, Generate, Submission, append_submission},
};

use self::{
    hold::Arrivals,
    lanes::{Lanes, Room},
};
pub use self::{lanes::NewOperation, taken::Taken};
use crate::{
    config::BatchQueue,
    trace::{RequestSpan, StageSpan},
};

/// A submission on its way to the worker. A request is encoded before it is queued: then its size is exact, and one
/// that can't be sent fails alone.
#[derive(Debug, PartialEq)]
pub enum Queued {
    /// [`Submission::Generate`].
    Generate {
        /// The stream.
        id: RequestId,
        /// The whole submission.
        bytes: EncodedSubmission,
        /// In its trace.
        stage: StageSpan,
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

/// Submissions that were not taken yet.
#[derive(Debug)]
pub struct Batcher {
    settings: BatchQueue,
    /// All but operations, in order.
    queue: VecDeque<Queued>,
    operations: Lanes,
    /// To be sent behind all others.
    drain: bool,
    /// Something is queued that must not be held.
    urgent: bool,
    /// When the submission that waits longest came.
    oldest: Option<Instant>,
    arrivals: Arrivals,
}

/// What to do with a [`Batcher`] now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing is queued.
    Idle,
    /// Others may still join; look again then, or when the next push says so.
    HoldUntil(Instant),
    /// Take a batch.
    Ship(Flush),
}

/// Why a batch is shipped now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Nothing is to be waited for.
    AtOnce,
    /// As much is queued as a frame takes.
    Full,
    /// It was held as long as it may be.
    Window,
    /// Something in it must not wait.
    Urgent,
}

/// Large requests are split over batches, so that a worker soon has the first of them. A single request may be larger.
const MAX_BATCH_BYTES: usize = 4 << 20;

impl Flush {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::AtOnce, Self::Full, Self::Window, Self::Urgent];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::AtOnce => "at_once",
            Self::Full => "full",
            Self::Window => "window",
            Self::Urgent => "urgent",
        }
    }
}

impl Queued {
    /// A request for text.
    ///
    /// # Errors
    /// It is too large for any batch.
    pub fn generate(generate: Generate) -> Result<Self, CodecError> {
        let id = generate.id;
        let bytes = EncodedSubmission::new(&Submission::Generate(Box::new(generate)))?;
        Ok(Self::Generate { id, bytes, stage: RequestSpan::current().batch() })
    }

    /// The stream whose request it is.
    pub fn request(&self) -> Option<RequestId> {
        match self {
            Self::Generate { id, .. } => Some(*id),
            Self::Cancel(_) | Self::Credit { .. } | Self::Drain => None,
        }
    }

    /// It joins a frame. Returns its trace's next stage, for a request.
    fn begin_shipping(&mut self) -> Option<StageSpan> {
        match self {
            Self::Generate { stage, .. } => Some(std::mem::take(stage).end().ship()),
            Self::Cancel(_) | Self::Credit { .. } | Self::Drain => None,
        }
    }

    fn append_to(&self, body: &mut Vec<u8>) -> Result<(), CodecError> {
        match self {
            Self::Generate { bytes, .. } => {
                body.extend_from_slice(bytes.as_bytes());
                Ok(())
            }
            Self::Cancel(id) => append_submission(&Submission::Cancel(*id), body),
            Self::Credit { id, chunks } => {
                append_submission(&Submission::Credit { id: *id, chunks: *chunks }, body)
            }
            Self::Drain => append_submission(&Submission::Drain, body),
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

    /// Whether it must not be held: the worker is to stop something.
    fn is_urgent(&self) -> bool {
        matches!(self, Self::Cancel(_) | Self::Drain)
    }
}

impl Batcher {
    /// An empty queue.
    pub fn new(settings: BatchQueue) -> Self {
        Self {
            settings,
            queue: VecDeque::new(),
            operations: Lanes::default(),
            drain: false,
            urgent: false,
            oldest: None,
            arrivals: Arrivals::default(),
        }
    }

    /// Queues a submission, or folds it into what is queued. True if what is to be done has changed with it: whoever
    /// ships must look. `now` is asked only if the time matters.
    pub fn push(&mut self, queued: Queued, now: impl FnOnce() -> Instant) -> bool {
        let urgent = queued.is_urgent();
        match queued {
            Queued::Cancel(id) if self.forget(id) => return false,
            Queued::Credit { id, chunks } if self.add_credit(id, chunks) => return false,
            Queued::Drain => self.drain = true,
            queued => self.queue.push_back(queued),
        }
        self.pushed(urgent, now)
    }

    /// [`Batcher::push`] of an operation. An `urgent` one is not held.
    ///
    /// # Errors
    /// It can't be encoded.
    pub fn push_operation(
        &mut self,
        operation: NewOperation<'_>,
        urgent: bool,
        now: impl FnOnce() -> Instant,
    ) -> Result<bool, CodecError> {
        self.operations.push(operation)?;
        Ok(self.pushed(urgent, now))
    }

    /// Notes that something was queued; true if whoever ships must look.
    fn pushed(&mut self, urgent: bool, now: impl FnOnce() -> Instant) -> bool {
        let (holds, first) = (!self.settings.flush_interval.is_zero(), self.oldest.is_none());
        if holds || first {
            let now = now();
            self.oldest.get_or_insert(now);
            if holds {
                self.arrivals.note(now, self.settings.flush_interval);
            }
        }
        let hurries = urgent && !self.urgent;
        self.urgent |= urgent;
        // Without a window, the first push has told it already that there is something to ship.
        first || (holds && (hurries || self.is_full()))
    }

    /// What is queued is not held any longer. True if whoever ships must look.
    pub fn hurry(&mut self) -> bool {
        let hurries = !self.urgent && !self.is_empty();
        self.urgent |= hurries;
        hurries
    }

    /// What to do at `now`.
    pub fn next(&self, now: Instant) -> Next {
        let Some(oldest) = self.oldest else { return Next::Idle };
        if self.urgent {
            return Next::Ship(Flush::Urgent);
        }
        if self.is_full() {
            return Next::Ship(Flush::Full);
        }
        let hold = self.arrivals.hold(self.settings.flush_interval);
        match oldest + hold {
            _ if hold.is_zero() => Next::Ship(Flush::AtOnce),
            due if now >= due => Next::Ship(Flush::Window),
            due => Next::HoldUntil(due),
        }
    }

    /// Moves the longest waiting submissions to `taken`: of operations and of all others at most `max_batch_size` each,
    /// and `MAX_BATCH_BYTES`, but at least one. What remains is due as before.
    pub fn take(&mut self, now: Instant, taken: &mut Taken) {
        taken.clear();
        let mut bytes = 0;
        let max = self.settings.max_batch_size;
        while taken.submissions.len() < max
            && let Some(queued) = self.queue.front()
            && (bytes == 0 || bytes + queued.size() <= MAX_BATCH_BYTES)
            && let Some(queued) = self.queue.pop_front()
        {
            bytes += queued.size();
            taken.submissions.push(queued);
        }
        // A request that is as large as several frames has one for itself.
        if bytes <= MAX_BATCH_BYTES {
            self.operations.take(Room { count: max, bytes: MAX_BATCH_BYTES - bytes }, taken);
        }
        taken.waited = self.oldest.map_or(Duration::ZERO, |oldest| now.saturating_duration_since(oldest));
        if self.queue.is_empty() && self.operations.len() == 0 {
            taken.drain = std::mem::take(&mut self.drain);
            self.emptied();
        }
    }

    /// The streams whose requests are queued.
    pub fn requests(&self) -> HashSet<RequestId> {
        self.queue.iter().filter_map(Queued::request).collect()
    }

    /// Submissions queued.
    pub fn len(&self) -> usize {
        self.queue.len() + self.operations.len() + usize::from(self.drain)
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn is_full(&self) -> bool {
        self.queue.len().max(self.operations.len()) >= self.settings.max_batch_size
    }

    fn emptied(&mut self) {
        self.oldest = None;
        self.urgent = false;
    }

    /// Drops what is queued for `id`; true if its request was among that, so that the worker needs no cancel.
    fn forget(&mut self, id: RequestId) -> bool {
        let before = self.queue.len();
        self.queue.retain(|s| !matches!(s, Queued::Generate { id: other, .. } if *other == id));
        let unsent = self.queue.len() < before || self.operations.cancel(id);
        self.queue.retain(|s| !matches!(s, Queued::Credit { id: other, .. } if *other == id));
        if self.is_empty() {
            self.emptied();
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

#[cfg(test)]
mod tests;
