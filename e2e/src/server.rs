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

use crate::{Client, MODEL, STORE, binary, terminate, variable};

/// Held by the server that runs: several models computing at once on a small machine make each other so slow
/// that time limits of innocent requests pass.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How to start a [`Server`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Worker processes.
    pub workers: u32,
    /// Port to listen on; 0 lets the gateway choose.
    pub port: u16,
    /// Model to serve.
    pub model: &'static str,
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
    child: Child,
    log: Arc<Mutex<String>>,
    /// Ends with the last of its processes: all of them write to the log.
    gone: Mutex<Receiver<()>>,
    /// Declared last: the next server starts when this one is gone.
    _turn: MutexGuard<'static, ()>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 1,
            port: 0,
            model: MODEL,
            store: None,
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }
}

impl Options {
    /// The command that starts the gateway.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary("kr-gateway"));
        command
            .args(["--port", &self.port.to_string(), "--workers", &self.workers.to_string()])
            .args(["--model", self.model, "--store"])
            .arg(self.store.clone().unwrap_or_else(|| variable(STORE)))
            .args(&self.arguments)
            .env_remove("KR_ADMIN_KEY")
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
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mut child = options.command().spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let gone = follow(child.stderr.take().unwrap(), Arc::clone(&log));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| line.strip_prefix("ready ").map(str::to_string));
        let Some(base) = ready else {
            let status = child.wait().unwrap();
            panic!("kr-gateway ended with {status} before it was ready:\n{}", log.lock().unwrap());
        };
        // Keeps the pipe open and empty for as long as the gateway lives.
        thread::spawn(move || lines.for_each(drop));
        Self { client: Client::new(&base), child, log, gone: Mutex::new(gone), _turn: turn }
    }

    /// The gateway's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Process ids of its workers, in their order: those that are connected.
    pub fn workers(&self) -> Vec<u32> {
        let state = self.client.get("/readyz").json;
        let workers = state["workers"].as_array().unwrap();
        workers.iter().filter_map(|worker| worker["pid"].as_u64()?.try_into().ok()).collect()
    }

    /// Asks `/readyz` until `done` says so of its status and body. The requests pace the loop.
    ///
    /// # Panics
    /// `what` has not come to be after a while.
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
    pub fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        // An error is what tells that the log is whole.
        let _ = self.gone.get_mut().unwrap().recv();
        status
    }
}

/// Longest time for a state to change: a worker's restart with its back-off, on a busy machine.
const CHANGE: Duration = Duration::from_secs(60);

/// Between two looks: a loop of requests would take the processor from what it waits for.
const POLL: Duration = Duration::from_millis(20);

/// For a server to end after a signal: a second one ends streams that are left.
const STOP: Duration = Duration::from_secs(10);

impl Drop for Server {
    fn drop(&mut self) {
        for _ in 0..2 {
            // It may have ended already; asking for that keeps its process id from being another's.
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

/// Copies into `log` until the end. Nothing is ever sent: the receiver fails then.
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
