//! Stage *ship* itself: from the outbox to the ring.

use std::time::Instant;

use protocol::frame::{FrameKind, Sent};
use tracing::{debug_span, warn};

use super::{LinkEnd, LinkTask, now};
use crate::worker::{
    batcher::{Flush, Next},
    streams::unsendable,
};

impl LinkTask {
    /// Sends what is queued, until the queue is empty, held, or the ring full. Returns the end of the hold.
    pub(super) fn ship(&mut self) -> Result<Option<Instant>, LinkEnd> {
        loop {
            if self.shipment.unsent() == 0 {
                let now = now();
                let flush = match self.link.outbox.next(now) {
                    Next::Idle => return Ok(None),
                    Next::HoldUntil(until) => return Ok(Some(until)),
                    Next::Ship(flush) => flush,
                };
                debug_span!("batch").in_scope(|| self.pack(now, flush));
                if self.shipment.unsent() == 0 {
                    continue;
                }
            }
            let (submissions, body) = (self.shipment.unsent(), self.shipment.body());
            let _span = debug_span!("ship", submissions, bytes = body.len()).entered();
            match self.sender.send(FrameKind::Batch, body)? {
                Sent::Done { ring_bell } => {
                    self.metrics.sent.count_frame(submissions, body.len());
                    self.shipment.finish();
                    if ring_bell {
                        self.ring_doorbell();
                    }
                }
                Sent::Full { ring_bell } => {
                    if ring_bell {
                        self.ring_doorbell();
                    }
                    // The worker rings the doorbell when there is space again.
                    return Ok(None);
                }
            }
        }
    }

    /// Encodes the next batch. If that fails, its requests do, and no others.
    fn pack(&mut self, now: Instant, flush: Flush) {
        match self.shipment.pack(&self.link.outbox, now) {
            // What made it worth while was cancelled meanwhile.
            Ok(()) if self.shipment.unsent() == 0 => {}
            Ok(()) => {
                self.metrics.batch.count(self.shipment.unsent(), self.shipment.waited(), flush);
                self.metrics.buffers.count(self.shipment.fits());
            }
            Err(error) => {
                let failure = unsendable(error);
                warn!(why = failure.message, "a batch can't be encoded; its requests fail");
                self.link.streams.fail(&self.shipment.requests(), &failure);
                self.link.operations.fail(self.shipment.operations(), &failure);
            }
        }
    }
}
