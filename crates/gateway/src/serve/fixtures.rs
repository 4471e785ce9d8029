//! A generation without a worker's process, for the tests of those who read one.
#![allow(clippy::unwrap_used)]

use futures_util::FutureExt;
use protocol::{
    ids::RequestId,
    message::{Delta, FinishReason, StreamEventKind, Submission, Usage},
};

use super::{
    admission::{Admission, AdmissionMetrics},
    generation::Generation,
    migrate::tests::World,
};
use crate::{config::StreamRegistry, metrics::MetricRegistry, worker::loss::Loss};

/// Plays the worker of one generation, which takes the only place that there is.
pub(crate) struct Player {
    fleet: World,
    id: RequestId,
    admission: Admission,
}

impl Player {
    /// A player, and its generation, which has been accepted.
    pub(crate) fn begin() -> (Self, Generation) {
        let settings = StreamRegistry { max_waiting: 0, ..StreamRegistry::of_streams(1) };
        let metrics = AdmissionMetrics::register(&mut MetricRegistry::new());
        let admission = Admission::new(settings, metrics);
        let permit = admission.admit("m").now_or_never().unwrap().unwrap();
        let fleet = World::new(1);
        let stream = fleet.begin().unwrap();
        let id = fleet.worker(0).generate().id;
        let player = Self { fleet, id, admission };
        player.deliver(StreamEventKind::Prepared { prompt_tokens: 1 });
        let generation = Generation::prepared(permit, stream);
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

    /// The worker dies, and there is no other.
    pub(crate) fn die(&self) {
        self.fleet.lose(0, Loss::Crashed("it broke".into()));
    }

    /// Whether the worker was ordered to stop.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.fleet.worker(0).submitted().contains(&Submission::Cancel(self.id))
    }

    /// Whether the place is free.
    pub(crate) fn has_place(&self) -> bool {
        self.admission.admit("m").now_or_never().unwrap().is_ok()
    }

    fn deliver(&self, kind: StreamEventKind) {
        self.fleet.worker(0).send(self.id, vec![kind]);
    }
}
