//! A worker that a test plays, without a process.

use protocol::{
    codec,
    message::{Batch, StreamEvent, Submission},
};

use super::{Link, now};
use crate::worker::batcher::Taken;

impl Link {
    /// Plays the worker: these events came from it.
    pub(crate) fn deliver(&self, events: impl IntoIterator<Item = StreamEvent>) {
        self.streams.deliver(events);
    }

    /// Plays the worker: what was queued for it since it was last asked.
    pub(crate) fn take_submissions(&self) -> Vec<Submission> {
        let (mut taken, mut body) = (Taken::default(), Vec::new());
        self.outbox.take_batch(now(), &mut taken);
        let batch = taken.encode(&mut body).and_then(|()| codec::decode(&body));
        batch.map(|batch: Batch| batch.submissions).unwrap_or_default()
    }
}
