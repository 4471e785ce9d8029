//! One life of a worker: its process, its link, and its end.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use protocol::{ids::Incarnation, options::WorkerOptions};
use tokio::{
    process::{Child, Command},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::info;

use super::{
    WorkerId, WorkerLauncher, environment,
    events::{Event, EventSender, ProcessEvent},
    link::{Link, LinkTask},
    listener::{Joined, WorkerListener},
};

/// A life that has begun. Its last news is [`Event::Died`].
pub struct WorkerProcess {
    pub(crate) incarnation: Incarnation,
    kill: Option<oneshot::Sender<Kill>>,
}

/// The order to end a process, after `grace` if it does not end by itself.
#[derive(Debug)]
struct Kill {
    grace: Duration,
    why: String,
}

impl WorkerProcess {
    pub(crate) fn begin(
        setup: Arc<WorkerLauncher>,
        worker: WorkerId,
        options: WorkerOptions,
        news: mpsc::Sender<ProcessEvent>,
    ) -> Self {
        let incarnation = setup.next_incarnation();
        let (kill, killed) = oneshot::channel();
        let living =
            Living { setup, worker, options, incarnation, reporter: EventSender::new(incarnation, news) };
        tokio::spawn(async move {
            let why = living.live(killed).await.unwrap_or_else(|error| error);
            living.reporter.tell(Event::Died(why)).await;
        });
        Self { incarnation, kill: Some(kill) }
    }

    /// Ends the process, after `grace` if it does not end by itself.
    pub(crate) fn kill(&mut self, grace: Duration, why: String) {
        if let Some(kill) = self.kill.take() {
            // It fails if the life is over already.
            let _ = kill.send(Kill { grace, why });
        }
    }
}

impl Kill {
    /// Nobody cares for the life any more.
    fn abandoned() -> Self {
        Self { grace: Duration::ZERO, why: "its supervision ended".into() }
    }
}

/// A dead worker's socket closes a moment before it can be reaped.
const REAP_GRACE: Duration = Duration::from_millis(500);

/// For reading what a dead worker had written to its socket: it is there already, or never comes.
const LAST_WORDS: Duration = Duration::from_millis(200);

struct Living {
    setup: Arc<WorkerLauncher>,
    worker: WorkerId,
    options: WorkerOptions,
    incarnation: Incarnation,
    reporter: EventSender,
}

impl Living {
    /// From spawn to reaped. Returns why it died, in either variant.
    async fn live(&self, mut killed: oneshot::Receiver<Kill>) -> Result<String, String> {
        let rendezvous = self.open().await?;
        let mut child = self.spawn(rendezvous.path())?;
        self.reporter.tell(Event::Spawned).await;
        let join = rendezvous.join(self.options);
        tokio::pin!(join);
        let joined = tokio::select! {
            joined = &mut join => joined,
            // It may have connected and said why it ends: that must not be lost to the order of events.
            status = child.wait() => match timeout(LAST_WORDS, join).await {
                Ok(Ok(joined)) => Ok(joined),
                _ => return Err(format!("it {} before it connected; its own words are above", ended(status))),
            },
            kill = &mut killed => {
                let Kill { grace, why } = kill.unwrap_or_else(|_| Kill::abandoned());
                let end = reap(child, grace).await;
                return Ok(format!("{why}; it {end}"));
            }
        };
        let joined = match joined {
            Ok(joined) => joined,
            Err(error) => {
                let end = reap(child, REAP_GRACE).await;
                return Err(format!("{:#}; then it {end}", anyhow::Error::new(error)));
            }
        };
        Ok(self.serve(joined, child, killed).await)
    }

    /// From the handshake to the end.
    async fn serve(&self, joined: Joined, child: Child, mut killed: oneshot::Receiver<Kill>) -> String {
        let metrics = &self.setup.metrics;
        let link = Link::new(joined.pid, self.setup.config.batch_queue, Arc::clone(metrics));
        info!(worker = %self.worker, pid = joined.pid, "worker connected");
        self.reporter.joined(link.clone()).await;
        let Joined { socket, sender, receiver, .. } = joined;
        let task = LinkTask::new(link.clone(), socket, sender, receiver, metrics.link(&self.worker));
        let (why, grace) = tokio::select! {
            end = task.run(&self.reporter) => (format!("{:#}", anyhow::Error::new(end)), REAP_GRACE),
            kill = &mut killed => {
                let Kill { grace, why } = kill.unwrap_or_else(|_| Kill::abandoned());
                (why, grace)
            }
        };
        link.lose(&why);
        let end = reap(child, grace).await;
        format!("{why}; it {end}")
    }

    async fn open(&self) -> Result<WorkerListener, String> {
        let (setup, incarnation) = (Arc::clone(&self.setup), self.incarnation);
        let ring_bytes = setup.config.workers.ring_bytes;
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let _entered = runtime.enter();
            let dir = setup.dir.path().context("can't make a folder for sockets and shared memory")?;
            anyhow::Ok(WorkerListener::open(&dir, incarnation, ring_bytes, setup.descriptors())?)
        })
        .await
        .map_err(|e| e.to_string())?
        .map_err(|e| format!("{e:#}"))
    }

    fn spawn(&self, socket: &Path) -> Result<Child, String> {
        let (setup, config) = (&self.setup, &self.setup.config);
        let mut command = Command::new(&setup.binary);
        command.arg("--socket").arg(socket);
        // In one word, so that no name can be taken for a flag.
        command.arg(format!("--model={}", self.worker.model));
        if let Some(store) = &config.workers.store {
            command.arg("--store").arg(store);
        }
        command.env_clear().envs(environment::for_worker());
        // A group of its own: Ctrl-C in the terminal is for the gateway, which drains the workers.
        // It is not killed on drop: when the gateway dies, the closing socket ends it.
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let _alone = setup.descriptors();
        command.spawn().map_err(|e| {
            format!(
                "can't start {}: {e}; name the worker's executable with --worker-bin",
                setup.binary.display()
            )
        })
    }
}

/// Waits for `child` to end, kills it after `grace`, and says how it ended.
async fn reap(mut child: Child, grace: Duration) -> String {
    if let Ok(status) = timeout(grace, child.wait()).await {
        return ended(status);
    }
    if let Err(error) = child.start_kill() {
        return format!("could not be killed: {error}");
    }
    ended(child.wait().await)
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
