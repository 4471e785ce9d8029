//! Keeps the workers running: `state` decides, `process` acts, one task a worker connects both.

mod news;
mod process;
mod rendezvous;
mod state;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use protocol::{ids::Incarnation, shm::runtime_dir};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep_until,
};
use tracing::{error, info, warn};

use self::{
    process::{Life, Setup},
    state::{Action, Machine},
};
use crate::{config::Config, link::Link, metrics::Metrics, router::Router};

pub use self::{
    news::{News, Reporter, What},
    rendezvous::{JoinError, Joined, Rendezvous},
    state::{Event, WorkerState},
};

/// All workers.
pub struct Supervisor {
    tasks: JoinSet<()>,
    startup: watch::Receiver<Startup>,
    drain: watch::Sender<bool>,
}

/// How far the first start has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Startup {
    /// No worker has served yet, and not all have failed.
    Starting,
    /// One has.
    Served,
    /// Every worker's first life failed: these are the last one's words.
    Failed(String),
}

/// Why there is nothing to supervise.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// No place for sockets and segments.
    #[error("can't make a folder for sockets and shared memory: {0}")]
    RuntimeDir(#[source] io::Error),
    /// The default worker can't be located.
    #[error("can't find this program's own folder to look for kr-worker in it: {0}; use --worker-bin")]
    OwnPath(#[source] io::Error),
    /// There is no worker to run.
    #[error("there is no worker at {}; build or install kr-worker, or name it with --worker-bin", .0.display())]
    NoBinary(PathBuf),
    /// Every worker failed before it served.
    #[error("no worker could start: {0}")]
    NoneStarted(String),
}

/// For a drained worker to exit: the gateway drains workers when their streams have ended.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Events that may wait for a worker's task: a life sends few, and its link waits if this is full.
const NEWS_QUEUE: usize = 64;

impl Supervisor {
    /// Starts all workers. They show up in `router` as they become ready. Needs a runtime.
    pub fn start(
        config: &Config,
        router: &Arc<Router>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, SupervisorError> {
        let setup = Arc::new(Setup {
            config: config.clone(),
            binary: worker_binary(config)?,
            dir: runtime_dir().map_err(SupervisorError::RuntimeDir)?,
            metrics: Arc::clone(metrics),
        });
        let count = config.workers.count;
        let (drain, draining) = watch::channel(false);
        let (startup_sender, startup) = watch::channel(Startup::Starting);
        let first_lives = Arc::new(FirstLives { left: Mutex::new(count), startup: startup_sender });
        let incarnations = Arc::new(AtomicU64::new(1));
        let mut tasks = JoinSet::new();
        for worker in 0..count {
            let care = Care {
                worker,
                setup: Arc::clone(&setup),
                router: Arc::clone(router),
                first_lives: Arc::clone(&first_lives),
                incarnations: Arc::clone(&incarnations),
                life: None,
                link: None,
                failed_first: false,
            };
            tasks.spawn(care.run(draining.clone()));
        }
        Ok(Self { tasks, startup, drain })
    }

    /// Returns once a worker serves, or with the last one's words once all have failed to.
    pub async fn wait_ready(&mut self) -> Result<(), SupervisorError> {
        let settled = self.startup.wait_for(|s| *s != Startup::Starting).await;
        match settled.as_deref() {
            Ok(Startup::Failed(why)) => Err(SupervisorError::NoneStarted(why.clone())),
            Ok(_) => Ok(()),
            Err(_) => Err(SupervisorError::NoneStarted("the supervisor ended".into())),
        }
    }

    /// Lets every worker finish and exit; kills those that do not.
    pub async fn drain(mut self) {
        self.drain.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                error!(%error, "a worker's supervision failed");
            }
        }
    }
}

/// Counts workers whose first life failed.
struct FirstLives {
    left: Mutex<usize>,
    startup: watch::Sender<Startup>,
}

impl FirstLives {
    fn served(&self) {
        self.startup.send_replace(Startup::Served);
    }

    fn failed(&self, why: &str) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.startup.send_if_modified(|startup| {
                let all_failed = *startup == Startup::Starting;
                if all_failed {
                    *startup = Startup::Failed(why.to_owned());
                }
                all_failed
            });
        }
    }
}

/// One worker's task: feeds its [`Machine`] and does what it says.
struct Care {
    worker: usize,
    setup: Arc<Setup>,
    router: Arc<Router>,
    first_lives: Arc<FirstLives>,
    incarnations: Arc<AtomicU64>,
    life: Option<Life>,
    link: Option<Link>,
    failed_first: bool,
}

impl Care {
    async fn run(mut self, mut draining: watch::Receiver<bool>) {
        let (sender, mut news) = mpsc::channel(NEWS_QUEUE);
        let config = &self.setup.config;
        let (mut machine, actions) = Machine::new(config.workers.clone(), EXIT_TIMEOUT, Instant::now());
        self.publish(&machine);
        self.act(actions, &sender);
        let mut told_to_drain = false;
        loop {
            let tick = async {
                match machine.wake_at() {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                // The channel can't end: `sender` lives in this function.
                Some(news) = news.recv() => match self.receive(news) {
                    Some(event) => event,
                    None => continue,
                },
                // An error means that the supervisor is gone, and the gateway with it.
                _ = draining.wait_for(|draining| *draining), if !told_to_drain => {
                    told_to_drain = true;
                    Event::Drain
                }
                () = tick => Event::Tick,
            };
            let before = machine.shown();
            let actions = machine.on(event, Instant::now());
            if machine.shown() != before && machine.shown() != WorkerState::Ready {
                self.publish(&machine);
            }
            if self.act(actions, &sender) {
                return;
            }
        }
    }

    /// The event, unless it is of an earlier life.
    fn receive(&mut self, news: News) -> Option<Event> {
        if self.life.as_ref().is_none_or(|life| life.incarnation != news.incarnation) {
            return None;
        }
        match news.what {
            What::Event(event) => Some(event),
            What::Joined(link) => {
                self.link = Some(link);
                Some(Event::Joined)
            }
        }
    }

    /// True if the worker will not live again.
    fn act(&mut self, actions: Vec<Action>, news: &mpsc::Sender<News>) -> bool {
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
                Action::Serve(model) => self.serve(model),
                Action::ReportFirstFailure(why) => {
                    if !std::mem::replace(&mut self.failed_first, true) {
                        self.first_lives.failed(&why);
                    }
                }
                Action::Stop => return true,
            }
        }
        false
    }

    fn spawn(&mut self, news: &mpsc::Sender<News>) {
        let incarnation = Incarnation(self.incarnations.fetch_add(1, Ordering::Relaxed));
        if self.life.is_some() {
            self.setup.metrics.count_restart(self.worker);
            info!(worker = self.worker, "restarting worker");
        }
        self.link = None;
        self.life = Some(Life::begin(Arc::clone(&self.setup), self.worker, incarnation, news.clone()));
    }

    fn serve(&mut self, model: protocol::message::ModelInfo) {
        let Some(link) = self.link.clone() else { return };
        info!(worker = self.worker, model = model.name, load_micros = model.load_micros, "worker ready");
        self.router.set_ready(self.worker, link, model);
        self.setup.metrics.set_worker_state(self.worker, WorkerState::Ready);
        self.first_lives.served();
    }

    /// Tells requests and metrics of every state but `Ready`, which [`Care::serve`] does.
    fn publish(&self, machine: &Machine) {
        let state = machine.shown();
        let note = machine.note();
        self.setup.metrics.set_worker_state(self.worker, state);
        self.router.set_state(self.worker, state, note.map(str::to_owned));
        if state == WorkerState::Exited {
            warn!(worker = self.worker, why = note, "worker is gone");
        }
    }
}

fn worker_binary(config: &Config) -> Result<PathBuf, SupervisorError> {
    let binary = match &config.workers.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe().map_err(SupervisorError::OwnPath)?.with_file_name("kr-worker"),
    };
    if binary.is_file() { Ok(binary) } else { Err(SupervisorError::NoBinary(binary)) }
}
