//! The way to the worker.

use std::time::Instant;

use futures_util::FutureExt;
use protocol::frame::{BELL, FrameKind, Sent};
use tokio::io::AsyncWriteExt;
use tracing::{debug_span, warn};

use super::{
    super::{
        batcher::{self, Next, Queued},
        streams::unsendable,
    },
    LinkEnd, LinkTask, now,
};

/// A larger buffer is freed once it was sent.
const KEPT_BODY: usize = 4 << 20;

impl LinkTask {
    /// Sends what is queued, until the queue is empty, held, or the ring full. Returns the end of the hold.
    pub(super) fn ship(&mut self) -> Result<Option<Instant>, LinkEnd> {
        loop {
            if self.unsent == 0 {
                match self.link.outbox.next(now()) {
                    Next::Idle => return Ok(None),
                    Next::HoldUntil(until) => return Ok(Some(until)),
                    Next::Ship => {}
                }
                self.unsent = debug_span!("batch").in_scope(|| self.pack());
                if self.unsent == 0 {
                    continue;
                }
            }
            let _span = debug_span!("ship", submissions = self.unsent, bytes = self.body.len()).entered();
            match self.sender.send(FrameKind::Batch, &self.body)? {
                Sent::Done { ring_bell } => {
                    self.metrics.count_batch(self.unsent, self.body.len());
                    self.unsent = 0;
                    self.shipping.clear();
                    self.body.shrink_to(KEPT_BODY);
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

    /// Encodes the next batch, and returns how many submissions are in it. If that fails, its streams end and no
    /// others.
    fn pack(&mut self) -> usize {
        let mut taken = self.link.outbox.take();
        self.shipping.extend(taken.iter_mut().filter_map(Queued::begin_shipping));
        let ids: Vec<_> = taken.iter().filter_map(Queued::request).collect();
        let count = taken.len();
        match batcher::encode(taken, &mut self.body) {
            Ok(()) => count,
            Err(error) => {
                let failure = unsendable(error);
                warn!(
                    submissions = count,
                    why = failure.message,
                    "a batch can't be encoded; its requests fail"
                );
                self.link.streams.fail(&ids, &failure);
                self.shipping.clear();
                0
            }
        }
    }

    /// If the socket's buffer is full, a doorbell is pending already; if it is closed, reading will tell.
    pub(super) fn ring_doorbell(&self) {
        let mut socket = &self.socket;
        if let Some(Ok(1)) = socket.write(&[BELL]).now_or_never() {
            self.metrics.sent.wakeups.inc();
        }
    }
}
