//! A gateway with its workers.

use std::{
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{Client, MODEL, STORE, binary, process::terminate, variable};

/// Held by the server that runs: several models that compute at once on a small machine slow each other down so much
/// that requests run into their time limits.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How to start a [`Server`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Worker processes.
    pub workers: u32,
    /// Port to listen on; 0 lets the gateway choose.
    pub port: u16,
    /// The executable, whose worker lies beside it; `None`: the one that all tests share.
    pub gateway: Option<PathBuf>,
    /// Model to serve.
    pub model: String,
    /// The artifact store; `None`: the one that all tests share.
    pub store: Option<PathBuf>,
    /// Further arguments of `kr-gateway`.
    pub arguments: Vec<String>,
    /// Further variables of its environment.
    pub environment: Vec<(&'static str, String)>,
}

/// A running `kr-gateway`; stopped when dropped.
pub struct Server {
    /// Talks to it.
    pub client: Client,
    /// From its start to its readiness line.
    pub ready_after: Duration,
    child: Child,
    log: Arc<Mutex<String>>,
    /// Ends with the last of its processes: all of them write to the log.
    gone: Mutex<Receiver<()>>,
    /// Declared last: the next server starts when this one is gone.
    _turn: MutexGuard<'static, ()>,
}

/// Why a [`Server`] was never ready.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no such program, or it is not executable.
    #[error("cannot start `{}`", .0.display())]
    Spawn(PathBuf, #[source] std::io::Error),
    /// It ended first.
    #[error("kr-gateway ended with {status} before it was ready:\n{log}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// Its standard error.
        log: String,
    },
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 1,
            port: 0,
            gateway: None,
            model: MODEL.to_owned(),
            store: None,
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }
}

impl Options {
    /// The command that starts the gateway.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.gateway.clone().unwrap_or_else(|| binary("kr-gateway")));
        command
            .args(["--port", &self.port.to_string(), "--workers", &self.workers.to_string()])
            .args(["--model", &self.model, "--store"])
            .arg(self.store.clone().unwrap_or_else(|| variable(STORE)))
            .args(&self.arguments)
            .env_remove("KR_ADMIN_KEY")
            .env_remove("KR_API_KEYS")
            .env_remove("KR_API_KEY")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

impl Server {
    /// Starts a gateway with one worker.
    pub fn start() -> Self {
        Self::start_with(&Options::default())
    }

    /// Starts a gateway and waits for its readiness line.
    ///
    /// # Panics
    /// It ends before it is ready; the message has its log.
    pub fn start_with(options: &Options) -> Self {
        Self::try_start(options).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts a gateway and waits for its readiness line.
    ///
    /// # Errors
    /// If it can't be started, or ends before it is ready.
    pub fn try_start(options: &Options) -> Result<Self, StartError> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mut command = options.command();
        let started = Instant::now();
        let mut child =
            command.spawn().map_err(|error| StartError::Spawn(command.get_program().into(), error))?;
        let log = Arc::new(Mutex::new(String::new()));
        let gone = follow(child.stderr.take().unwrap(), Arc::clone(&log));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| line.strip_prefix("ready ").map(str::to_string));
        let ready_after = started.elapsed();
        let Some(base) = ready else {
            let status = child.wait().unwrap();
            let log = log.lock().unwrap().clone();
            return Err(StartError::Ended { status, log });
        };
        // Keeps the pipe open and empty for as long as the gateway lives.
        thread::spawn(move || lines.for_each(drop));
        let (client, gone) = (Client::new(&base), Mutex::new(gone));
        Ok(Self { client, ready_after, child, log, gone, _turn: turn })
    }

    /// The gateway's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Process ids of its workers, in their order: those that are connected.
    ///
    /// # Panics
    /// The gateway doesn't answer.
    pub fn workers(&self) -> Vec<u32> {
        let state = self.client.get("/readyz").json;
        let workers = state["workers"].as_array().unwrap();
        workers.iter().filter_map(|worker| worker["pid"].as_u64()?.try_into().ok()).collect()
    }

    /// Asks `/readyz` until `done` accepts its status and body.
    ///
    /// # Panics
    /// `what` is still not so after a while.
    pub fn wait_until(&self, what: &str, mut done: impl FnMut(u16, &Value) -> bool) {
        let deadline = Instant::now() + CHANGE;
        loop {
            let answer = self.client.get("/readyz");
            if done(answer.status, &answer.json) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: not after {CHANGE:?}; {}", answer.json);
            thread::sleep(POLL);
        }
    }

    /// What it has written to standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// The system doesn't say how it ended.
    pub fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        // Nothing is ever sent: the error says that the log is complete.
        let _ = self.gone.get_mut().unwrap().recv();
        status
    }
}

/// Longest time for a state to change: a worker's restart with its back-off, on a busy machine.
const CHANGE: Duration = Duration::from_secs(60);

/// Between two requests: without a pause they would take the processor from what they wait for.
const POLL: Duration = Duration::from_millis(20);

/// Longest time for a server to end after a signal. A second signal ends the streams that are left.
const STOP: Duration = Duration::from_secs(10);

impl Drop for Server {
    fn drop(&mut self) {
        for _ in 0..2 {
            // As long as it is not reaped, its process id can't be given to another process.
            if matches!(self.child.try_wait(), Ok(None)) {
                terminate(self.pid());
                let gone = self.gone.get_mut().unwrap_or_else(PoisonError::into_inner);
                let _ = gone.recv_timeout(STOP);
            }
        }
        // Its workers end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- log of kr-gateway ---\n{}", self.log());
        }
    }
}

/// Copies into `log` until the end, at which the receiver fails: nothing is ever sent to it.
fn follow(stderr: ChildStderr, log: Arc<Mutex<String>>) -> Receiver<()> {
    let (end, gone) = mpsc::channel();
    thread::spawn(move || {
        let _end: mpsc::Sender<()> = end;
        let mut reader = BufReader::new(stderr);
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = reader.read(&mut buffer) {
            log.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..len]));
        }
    });
    gone
}
