//! The batch that is on its way into the ring.

use std::time::{Duration, Instant};

use protocol::{codec::CodecError, ids::RequestId};

use crate::{
    trace::StageSpan,
    worker::{batcher::Taken, outbox::Outbox},
};

/// A batch that was taken from the outbox, and its bytes. Its memory is used again for the next.
#[derive(Debug, Default)]
pub(super) struct Shipment {
    taken: Taken,
    body: Vec<u8>,
    /// Submissions in `body` if it was not (wholly) sent yet, else 0.
    unsent: usize,
    /// The memory of `body` sufficed: none was allocated.
    fits: bool,
    /// The requests among them, in their traces.
    stages: Vec<StageSpan>,
}

/// A larger buffer is freed once it was sent.
const KEPT_BODY: usize = 4 << 20;

impl Shipment {
    /// Takes the next batch and encodes it. It is empty if nothing is queued.
    ///
    /// # Errors
    /// It can't be encoded; nothing is to be sent then.
    pub(super) fn pack(&mut self, outbox: &Outbox, now: Instant) -> Result<(), CodecError> {
        outbox.take_batch(now, &mut self.taken);
        self.unsent = 0;
        let room = self.body.capacity();
        self.taken.encode(&mut self.body)?;
        self.fits = self.body.capacity() == room;
        self.stages.extend(self.taken.begin_shipping());
        self.unsent = self.taken.len();
        Ok(())
    }

    /// Submissions that are to be sent; 0 if all were.
    pub(super) fn unsent(&self) -> usize {
        self.unsent
    }

    /// What is to be sent.
    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Whether it fitted in the memory of earlier ones.
    pub(super) fn fits(&self) -> bool {
        self.fits
    }

    /// For how long the oldest submission was queued.
    pub(super) fn waited(&self) -> Duration {
        self.taken.waited()
    }

    /// The streams whose requests are in it.
    pub(super) fn requests(&self) -> Vec<RequestId> {
        self.taken.requests()
    }

    /// The operations in it.
    pub(super) fn operations(&self) -> &[RequestId] {
        self.taken.operations()
    }

    /// All of it was sent.
    pub(super) fn finish(&mut self) {
        self.unsent = 0;
        self.stages.clear();
        self.taken.clear();
        self.body.shrink_to(KEPT_BODY);
    }
}
