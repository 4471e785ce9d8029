//! One worker's task: feeds its [`WorkerStateMachine`] and does what it says.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::{
    message::{Failure, ModelInfo, Verified},
    options::{Verify, WorkerOptions},
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};
use tracing::{error, info, warn};

use super::{
    lifecycle::{Action, WorkerStateMachine},
    registry::ModelRegistry,
    supervisor::StartupTracker,
};
use crate::worker::{
    Event, EventKind, ProcessEvent, WorkerId, WorkerLauncher, WorkerProcess, WorkerState, link::Link,
};

/// For a drained worker to exit: it is drained when its streams have ended.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Events that may wait for a worker's task: a life sends few, and its link waits if this is full.
const EVENT_QUEUE: usize = 64;

/// What a worker's task knows.
pub(super) struct WorkerTask {
    worker: WorkerId,
    setup: Arc<WorkerLauncher>,
    router: Arc<ModelRegistry>,
    first_lives: Arc<StartupTracker>,
    life: Option<WorkerProcess>,
    link: Option<Link>,
    failed_first: bool,
    /// A life of it has verified the stored model.
    verified: bool,
    leaving: DrainPhase,
}

/// How far the worker is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DrainPhase {
    /// It stays.
    No,
    /// It gets nothing new; its streams go on.
    Finishing,
    /// It was told to exit.
    Told,
}

impl WorkerTask {
    /// Of a worker that does not live yet.
    pub(super) fn new(
        worker: WorkerId,
        setup: &Arc<WorkerLauncher>,
        router: &Arc<ModelRegistry>,
        first_lives: &Arc<StartupTracker>,
    ) -> Self {
        Self {
            worker,
            setup: Arc::clone(setup),
            router: Arc::clone(router),
            first_lives: Arc::clone(first_lives),
            life: None,
            link: None,
            failed_first: false,
            verified: false,
            leaving: DrainPhase::No,
        }
    }

    /// Until the worker is gone for good.
    pub(super) async fn run(mut self, mut draining: watch::Receiver<bool>) {
        let (sender, mut news) = mpsc::channel(EVENT_QUEUE);
        let policy = self.setup.config.workers.clone();
        let (mut machine, actions) = WorkerStateMachine::new(policy, EXIT_TIMEOUT, now());
        self.publish(&machine);
        self.act(actions, &sender);
        loop {
            let event = tokio::select! {
                // The channel can't end: `sender` lives in this function.
                Some(news) = news.recv() => match self.receive(news) {
                    Some(event) => event,
                    None => continue,
                },
                // An error means that the supervisor is gone, and the gateway with it.
                _ = draining.wait_for(|draining| *draining), if self.leaving == DrainPhase::No => {
                    self.leave();
                    continue;
                }
                () = idle(self.link.as_ref()), if self.leaving == DrainPhase::Finishing => {
                    self.leaving = DrainPhase::Told;
                    Event::Drain
                }
                () = tick(&machine) => Event::Tick,
            };
            let before = machine.shown();
            let actions = machine.on(event, now());
            if machine.shown() != before && machine.shown() != WorkerState::Ready {
                self.publish(&machine);
            }
            if self.act(actions, &sender) {
                return;
            }
        }
    }

    /// From now on it gets no new stream, whoever has a copy of its link.
    fn leave(&mut self) {
        self.leaving = DrainPhase::Finishing;
        if let Some(link) = &self.link {
            link.close();
        }
    }

    /// The event, unless it is of an earlier life.
    fn receive(&mut self, news: ProcessEvent) -> Option<Event> {
        if self.life.as_ref().is_none_or(|life| life.incarnation != news.incarnation) {
            return None;
        }
        match news.what {
            EventKind::Event(event) => Some(event),
            EventKind::Joined(link) => {
                self.link = Some(link);
                Some(Event::Joined)
            }
            EventKind::Verified(outcome) => {
                self.verified(outcome);
                None
            }
        }
    }

    fn verified(&mut self, outcome: Result<Verified, Failure>) {
        self.verified = true;
        let model = &*self.worker.model;
        self.setup.metrics.count_verification(model, outcome.is_ok());
        let damage = match outcome {
            Ok(Verified { bytes, micros }) => {
                info!(model, bytes, micros, "the stored model is as it should be");
                None
            }
            Err(failure) => {
                error!(model, why = failure.message, "the stored model is damaged; it can't be loaded again");
                Some(failure.message)
            }
        };
        self.router.set_damage(model, damage);
    }

    /// True if the worker will not live again.
    fn act(&mut self, actions: Vec<Action>, news: &mpsc::Sender<ProcessEvent>) -> bool {
        for action in actions {
            match action {
                Action::Spawn => self.spawn(news),
                Action::SendDrain => {
                    if let Some(link) = &self.link {
                        link.drain();
                    }
                }
                Action::Kill { grace, why } => {
                    if let Some(life) = &mut self.life {
                        life.kill(grace, why);
                    }
                }
                Action::Serve(info) => self.serve(info),
                Action::ReportFirstFailure(failure) => {
                    if !std::mem::replace(&mut self.failed_first, true) {
                        self.first_lives.failed(failure);
                    }
                }
                Action::Stop => return true,
            }
        }
        false
    }

    fn spawn(&mut self, news: &mpsc::Sender<ProcessEvent>) {
        if self.life.is_some() {
            self.setup.metrics.count_restart(&self.worker);
            info!(worker = %self.worker, "restarting worker");
        }
        self.link = None;
        let options = WorkerOptions { verify: self.verify(), ..self.setup.options };
        self.life =
            Some(WorkerProcess::begin(Arc::clone(&self.setup), self.worker.clone(), options, news.clone()));
    }

    /// In the background, one of a model's workers verifies, and once: reading all of a large model takes minutes.
    fn verify(&self) -> Verify {
        match self.setup.options.verify {
            Verify::Background if self.verified || self.worker.number > 0 => Verify::Header,
            verify => verify,
        }
    }

    fn serve(&mut self, info: ModelInfo) {
        let Some(link) = self.link.clone() else { return };
        info!(worker = %self.worker, digest = info.digest, load_micros = info.load_micros, "worker ready");
        self.router.set_ready(&self.worker, link, info);
        self.setup.metrics.set_worker_state(&self.worker, WorkerState::Ready);
        self.first_lives.served();
    }

    /// Tells requests and metrics of every state but `Ready`, which [`WorkerTask::serve`] does.
    fn publish(&self, machine: &WorkerStateMachine) {
        let state = machine.shown();
        let note = machine.note();
        self.setup.metrics.set_worker_state(&self.worker, state);
        self.router.set_state(&self.worker, state, note.map(str::to_owned));
        match state {
            WorkerState::Exited if self.leaving == DrainPhase::No => {
                warn!(worker = %self.worker, why = note, "worker is gone");
            }
            WorkerState::Exited => info!(worker = %self.worker, "worker has left"),
            _ => {}
        }
    }
}

/// Returns when the worker has no live stream. One that never joined has none.
async fn idle(link: Option<&Link>) {
    if let Some(link) = link {
        link.idle().await;
    }
}

/// By the clock of [`tick`]: a test may pause it, and then the two would differ.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn tick(machine: &WorkerStateMachine) {
    match machine.wake_at() {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
