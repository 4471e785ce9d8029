//! A generation without a worker, for the tests of those who read one.
#![allow(clippy::unwrap_used)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use protocol::{
    ids::RequestId,
    message::{Delta, FinishReason, Generate, Prompt, StreamEvent, StreamEventKind, Usage},
};

use super::{
    admission::{Admission, AdmissionMetrics},
    generation::Generation,
};
use crate::{
    config::{BatchQueue, StreamRegistry},
    metrics::MetricRegistry,
    worker::{WorkerMetrics, batcher::Queued, outbox::Outbox, streams::Streams},
};

const ID: RequestId = RequestId(1);

/// Plays the worker of one generation, which takes the only place that there is.
pub(crate) struct Player {
    streams: Arc<Streams>,
    outbox: Arc<Outbox>,
    admission: Admission,
}

impl Player {
    /// A player, and its generation, which has been accepted.
    pub(crate) fn begin() -> (Self, Generation) {
        let settings = StreamRegistry {
            min_streams: 1,
            max_streams: 1,
            max_waiting: 0,
            wait_timeout: Duration::ZERO,
            credit_chunks: 1000,
        };
        let batches = BatchQueue { max_batch_size: 64, flush_interval: Duration::ZERO };
        let mut metrics = MetricRegistry::new();
        let outbox = Arc::new(Outbox::new(batches));
        let player = Self {
            streams: Arc::new(Streams::new(
                Arc::clone(&outbox),
                WorkerMetrics::register(&mut metrics).streams,
            )),
            outbox,
            admission: Admission::new(settings, AdmissionMetrics::register(&mut metrics)),
        };
        let permit = player.admission.admit("m").now_or_never().unwrap().unwrap();
        let generate = Generate::new(ID, Prompt::Text("x".into()), settings.credit_chunks);
        let stream = player.streams.open(generate, Instant::now()).unwrap();
        player.outbox.take();
        player.deliver(StreamEventKind::Prepared { prompt_tokens: 1 });
        let generation = Generation::prepared(permit, stream, "d".into());
        (player, generation.now_or_never().unwrap().unwrap())
    }

    /// The worker sends text.
    pub(crate) fn text(&self, text: &str) {
        self.deliver(StreamEventKind::Delta(Delta { text: text.into(), ..Delta::default() }));
    }

    /// The worker ends the generation.
    pub(crate) fn finish(&self) {
        let usage = Usage::default();
        self.deliver(StreamEventKind::Finished { reason: FinishReason::Stop, usage });
    }

    /// Whether the worker was ordered to stop.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.outbox.take().iter().any(|queued| matches!(queued, Queued::Cancel(ID)))
    }

    /// Whether the place is free.
    pub(crate) fn has_place(&self) -> bool {
        self.admission.admit("m").now_or_never().unwrap().is_ok()
    }

    fn deliver(&self, kind: StreamEventKind) {
        self.streams.deliver([StreamEvent { id: ID, kind }]);
    }
}
