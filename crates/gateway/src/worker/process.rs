//! One worker process: its start, its link, and its end.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use futures_util::FutureExt;
use protocol::{ids::Incarnation, message::Heartbeat, options::WorkerOptions};
use tokio::{
    process::{Child, Command},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::info;

use super::{
    environment,
    event::{EventSender, WorkerEvent},
    id::WorkerId,
    launcher::WorkerLauncher,
    link::{Link, LinkEnd, LinkTask},
    listener::{Joined, WorkerListener},
    loss::Loss,
};

/// A process that is being started or runs. Its last event is [`WorkerEvent::Died`].
#[derive(Debug)]
pub struct WorkerProcess {
    incarnation: Incarnation,
    link: Link,
    kill: Option<oneshot::Sender<Kill>>,
}

/// The order to end a process, after `grace` if it does not end by itself.
#[derive(Debug)]
struct Kill {
    grace: Duration,
    why: String,
}

/// What the task of one process owns.
struct ProcessTask {
    launcher: Arc<WorkerLauncher>,
    worker: WorkerId,
    options: WorkerOptions,
    incarnation: Incarnation,
    link: Link,
    events: EventSender,
}

/// A dead worker's socket closes a moment before it can be reaped.
const REAP_GRACE: Duration = Duration::from_millis(500);

/// For reading what a dead worker had written to its socket: it is there already, or never comes.
const LAST_WORDS: Duration = Duration::from_millis(200);

impl WorkerProcess {
    /// Starts a process for `worker`. Needs a runtime.
    pub fn start(
        launcher: &Arc<WorkerLauncher>,
        worker: WorkerId,
        options: WorkerOptions,
        events: mpsc::Sender<(Incarnation, WorkerEvent)>,
    ) -> Self {
        let incarnation = launcher.next_incarnation();
        let link = Link::new(launcher.config.batch_queue, launcher.metrics.streams(&worker.model));
        let (kill, killed) = oneshot::channel();
        let task = ProcessTask {
            launcher: Arc::clone(launcher),
            worker,
            options,
            incarnation,
            link: link.clone(),
            events: EventSender::new(incarnation, events),
        };
        tokio::spawn(async move {
            let not_started = |why| WorkerEvent::Died { why, by_others: false };
            let died = task.run(killed).await.unwrap_or_else(not_started);
            task.events.send(died).await;
        });
        Self { incarnation, link, kill: Some(kill) }
    }

    /// Names this process among all that the gateway ever started.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Its link. What is queued on it is sent once the worker has joined.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Ends the process, after `grace` if it does not end by itself.
    pub fn kill(&mut self, grace: Duration, why: String) {
        if let Some(kill) = self.kill.take() {
            // It fails if the process is gone already.
            let _ = kill.send(Kill { grace, why });
        }
    }
}

impl Kill {
    /// The [`WorkerProcess`] was dropped.
    fn abandoned() -> Self {
        Self { grace: Duration::ZERO, why: "its supervision ended".into() }
    }
}

impl ProcessTask {
    /// From spawn to reaped. Returns how it died, or why it never served.
    async fn run(&self, mut killed: oneshot::Receiver<Kill>) -> Result<WorkerEvent, String> {
        let listener = self.open().await?;
        let mut child = self.spawn(listener.path())?;
        self.events.send(WorkerEvent::Spawned).await;
        let join = listener.join(self.options.clone());
        tokio::pin!(join);
        let joined = tokio::select! {
            joined = &mut join => joined,
            // It may have connected and given its reason: that must not depend on which of the two is noticed first.
            status = child.wait() => match timeout(LAST_WORDS, join).await {
                Ok(Ok(joined)) => Ok(joined),
                _ => return Err(format!("it {} before it connected; its own words are above", ended(status))),
            },
            kill = &mut killed => {
                let Kill { grace, why } = kill.unwrap_or_else(|_| Kill::abandoned());
                let end = reap(child, grace).await;
                return Err(format!("{why}; it {}", end.text));
            }
        };
        let joined = match joined {
            Ok(joined) => joined,
            Err(error) => {
                let end = reap(child, REAP_GRACE).await;
                return Err(format!("{:#}; then it {}", anyhow::Error::new(error), end.text));
            }
        };
        Ok(self.serve(joined, child, killed).await)
    }

    /// From the handshake to the end.
    async fn serve(
        &self,
        joined: Joined,
        mut child: Child,
        mut killed: oneshot::Receiver<Kill>,
    ) -> WorkerEvent {
        let Joined { socket, sender, receiver, pid } = joined;
        info!(worker = %self.worker, pid, "worker connected");
        self.events.send(WorkerEvent::Joined { pid }).await;
        let metrics = self.launcher.metrics.link(&self.worker);
        let task = LinkTask::new(self.link.clone(), socket, sender, receiver, metrics.clone());
        let exited = child.wait().map(drop);
        let (why, grace, silent) = tokio::select! {
            end = task.run(&self.events, exited) => {
                let silent = matches!(end, LinkEnd::Closed | LinkEnd::Socket(_) | LinkEnd::Exited);
                (format!("{:#}", anyhow::Error::new(end)), REAP_GRACE, silent)
            }
            kill = &mut killed => {
                let Kill { grace, why } = kill.unwrap_or_else(|_| Kill::abandoned());
                (why, grace, false)
            }
        };
        self.link.close();
        // It does nothing any more.
        metrics.set_work(&Heartbeat::default());
        let end = reap(child, grace).await;
        let why = format!("{why}; it {}", end.text);
        // How it ended says whether one of its requests may be the cause.
        let by_others = silent && end.by_others;
        self.link.lose_all(&if by_others { Loss::Killed(why.clone()) } else { Loss::Crashed(why.clone()) });
        WorkerEvent::Died { why, by_others }
    }

    async fn open(&self) -> Result<WorkerListener, String> {
        let (launcher, incarnation) = (Arc::clone(&self.launcher), self.incarnation);
        let ring_bytes = launcher.config.workers.ring_bytes;
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let _entered = runtime.enter();
            let dir = launcher.dir.path().context("can't make a folder for sockets and shared memory")?;
            anyhow::Ok(WorkerListener::open(&dir, incarnation, ring_bytes, launcher.descriptors())?)
        })
        .await
        .map_err(|e| e.to_string())?
        .map_err(|e| format!("{e:#}"))
    }

    fn spawn(&self, socket: &Path) -> Result<Child, String> {
        let launcher = &self.launcher;
        let mut command = Command::new(&launcher.binary);
        command.arg("--socket").arg(socket);
        // In one word, so that no name can be taken for a flag.
        command.arg(format!("--model={}", self.worker.model));
        if let Some(store) = &launcher.config.workers.store {
            command.arg("--store").arg(store);
        }
        command.env_clear().envs(environment::for_worker());
        command.envs(launcher.config.telemetry.for_worker());
        // A group of its own: Ctrl-C in the terminal is for the gateway, which drains the workers.
        // It is not killed on drop: when the gateway dies, the closing socket ends it.
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let _alone = launcher.descriptors();
        command.spawn().map_err(|e| {
            format!(
                "can't start {}: {e}; name the worker's executable with --worker-bin",
                launcher.binary.display()
            )
        })
    }
}

/// How a process ended.
struct End {
    /// For people, after "it".
    text: String,
    /// By a signal that a program does not cause by itself, and not by ours.
    by_others: bool,
}

/// Waits for `child` to end, and kills it after `grace`.
async fn reap(mut child: Child, grace: Duration) -> End {
    if let Ok(status) = timeout(grace, child.wait()).await {
        let signal = status.as_ref().ok().and_then(ExitStatusExt::signal);
        return End { text: ended(status), by_others: signal.is_some_and(is_from_others) };
    }
    let text = match child.start_kill() {
        Ok(()) => ended(child.wait().await),
        Err(error) => format!("could not be killed: {error}"),
    };
    End { text, by_others: false }
}

/// Whether a process gets this signal from a person or the system, and not for an error of its own.
fn is_from_others(signal: i32) -> bool {
    use rustix::process::Signal;
    [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP].iter().any(|it| it.as_raw() == signal)
}

fn ended(status: io::Result<ExitStatus>) -> String {
    match status {
        Err(error) => format!("could not be waited for: {error}"),
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited with status {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => format!("ended with {status}"),
        },
    }
}
