//! One worker's task: feeds its [`WorkerStateMachine`] and carries out the actions.
//!
//! ```text
//! process, link ── WorkerEvent ──► WorkerTask ── Event ──► WorkerStateMachine ── Action ──► WorkerTask
//! ```

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::{
    ids::Incarnation,
    message::{Failure, ModelInfo, Verified},
    options::{Verify, WorkerOptions},
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};
use tracing::{error, info, trace, warn};

use super::{
    context::Context,
    lifecycle::{Action, Event, WorkerStateMachine},
    model::Service,
    restart::{Order, RestartOrders},
};
use crate::worker::{WorkerEvent, WorkerId, WorkerProcess, WorkerState, link::Link};

/// For a drained worker to exit: it is drained when its streams have ended.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Events that may wait for a worker's task: a process sends few, and its link waits if this is full.
const EVENT_QUEUE: usize = 64;

/// Sends the events of a worker's processes to its task.
type Events = mpsc::Sender<(Incarnation, WorkerEvent)>;

/// What a worker's task owns.
pub(super) struct WorkerTask {
    worker: WorkerId,
    context: Arc<Context>,
    /// The latest process, which may be dead.
    process: Option<WorkerProcess>,
    /// The process id that it reported, once it has joined.
    pid: u32,
    /// The failure of the first process was reported.
    first_failed: bool,
    /// A process of this worker has verified the stored model.
    verified: bool,
    /// The restart that is under way.
    restart: Option<Order>,
    /// When the process's last heartbeat came.
    last_heartbeat: Option<Instant>,
}

impl WorkerTask {
    /// For a worker without a process.
    pub(super) fn new(worker: WorkerId, context: &Arc<Context>) -> Self {
        Self {
            worker,
            context: Arc::clone(context),
            process: None,
            pid: 0,
            first_failed: false,
            verified: false,
            restart: None,
            last_heartbeat: None,
        }
    }

    /// Until the worker is gone for good. `restarts` are carried out one after the other.
    pub(super) async fn run(mut self, mut draining: watch::Receiver<bool>, mut restarts: RestartOrders) {
        let (sender, mut events) = mpsc::channel(EVENT_QUEUE);
        let policy = self.context.launcher.config.workers.clone();
        let (mut machine, actions) = WorkerStateMachine::new(policy, EXIT_TIMEOUT, now());
        self.publish(&machine);
        self.act(actions, &sender);
        loop {
            let event = tokio::select! {
                // The channel can't end: `sender` lives in this function.
                Some((incarnation, event)) = events.recv() => match self.receive(incarnation, event) {
                    Some(event) => event.into(),
                    None => continue,
                },
                // An error means that the supervisor is gone, and the gateway with it.
                _ = draining.wait_for(|draining| *draining), if !machine.is_stopping() => Event::Drain,
                Some(order) = restarts.recv(), if self.restart.is_none() => {
                    info!(worker = %self.worker, "a restart was asked for");
                    // Something else may be stored under the model's name by now.
                    self.verified = false;
                    Event::Restart { finish: self.restart.insert(order).finish }
                }
                () = idle(self.link()), if machine.is_finishing() => Event::Idle,
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

    fn link(&self) -> Option<&Link> {
        self.process.as_ref().map(WorkerProcess::link)
    }

    fn with_link(&self, order: impl FnOnce(&Link)) {
        if let Some(link) = self.link() {
            order(link);
        }
    }

    /// The event, if it is for the state machine and not from an earlier process.
    fn receive(&mut self, incarnation: Incarnation, event: WorkerEvent) -> Option<WorkerEvent> {
        if self.process.as_ref().is_none_or(|process| process.incarnation() != incarnation) {
            return None;
        }
        match event {
            WorkerEvent::Verified(outcome) => {
                self.set_verified(outcome);
                return None;
            }
            WorkerEvent::Joined { pid } => self.pid = pid,
            WorkerEvent::Heartbeat(_) => self.measure_heartbeat(),
            _ => {}
        }
        Some(event)
    }

    fn measure_heartbeat(&mut self) {
        let now = now();
        if let Some(last) = self.last_heartbeat.replace(now) {
            let gap = now - last;
            trace!(worker = %self.worker, micros = gap.as_micros() as u64, "heartbeat");
            self.context.metrics.observe_heartbeat(&self.worker, gap);
        }
    }

    fn set_verified(&mut self, outcome: Result<Verified, Failure>) {
        self.verified = true;
        let model = &*self.worker.model;
        self.context.metrics.count_verification(model, outcome.is_ok());
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
        self.context.registry.set_damage(model, damage);
    }

    /// True if the worker will not be started again.
    fn act(&mut self, actions: Vec<Action>, events: &Events) -> bool {
        for action in actions {
            match action {
                Action::Spawn => self.spawn(events),
                // Even through copies of its link.
                Action::Close => self.with_link(Link::close),
                Action::Release => self.with_link(Link::release),
                Action::SendDrain => self.with_link(Link::drain),
                Action::Kill { grace, why } => {
                    if let Some(process) = &mut self.process {
                        process.kill(grace, why);
                    }
                }
                Action::Serve(info) => self.serve(info),
                Action::ReportFirstFailure(failure) => {
                    if !std::mem::replace(&mut self.first_failed, true) {
                        self.context.registry.first_failed(&self.worker, failure);
                    }
                }
                Action::ReportRestart(outcome) => {
                    if let Some(order) = self.restart.take() {
                        order.settle(outcome);
                    }
                }
                Action::Stop => return true,
            }
        }
        false
    }

    fn spawn(&mut self, events: &Events) {
        if self.process.is_some() {
            self.context.metrics.count_restart(&self.worker);
            info!(worker = %self.worker, "restarting worker");
        }
        self.last_heartbeat = None;
        let launcher = &self.context.launcher;
        let memory = self.context.registry.memory_share(&self.worker.model);
        let draft_model = self.context.stored.latest().draft_of(&self.worker.model).map(str::to_owned);
        let options =
            WorkerOptions { verify: self.verify(), memory, draft_model, ..launcher.options.clone() };
        self.process = Some(WorkerProcess::start(launcher, self.worker.clone(), options, events.clone()));
    }

    /// In the background, one of a model's workers verifies, and once: reading all of a large model takes minutes.
    fn verify(&self) -> Verify {
        match self.context.launcher.options.verify {
            Verify::Background if self.verified || self.worker.number > 0 => Verify::Header,
            verify => verify,
        }
    }

    fn serve(&mut self, info: ModelInfo) {
        let Some(link) = self.link().cloned() else { return };
        info!(worker = %self.worker, digest = info.digest, load_micros = info.load_micros, "worker ready");
        self.context.metrics.set_worker_state(&self.worker, WorkerState::Ready);
        self.context.registry.set_ready(&self.worker, Service { link, info, pid: self.pid });
    }

    /// Shows every state but `Ready`, which [`WorkerTask::serve`] shows.
    fn publish(&self, machine: &WorkerStateMachine) {
        let state = machine.shown();
        let note = machine.note();
        self.context.metrics.set_worker_state(&self.worker, state);
        self.context.registry.set_state(&self.worker, state, note.map(str::to_owned));
        match state {
            WorkerState::Exited if !machine.expects_end() => {
                warn!(worker = %self.worker, why = note, "worker is gone");
            }
            WorkerState::Exited => info!(worker = %self.worker, "worker has left"),
            _ => {}
        }
    }
}

/// Returns when the worker has no live stream. One without a process has none.
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
