//! A gateway in this process, with its real supervisor, and a worker that the test plays itself.
//!
//! The worker's *process* is a shell script that only announces its socket; its *mouth* is
//! [`TestWorker`], which speaks the real protocol over the real segment. The script ends when the
//! test does.

#![allow(dead_code, clippy::unwrap_used, unreachable_pub, missing_docs)]

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router as Routes,
    body::{Body, Bytes},
    http::{HeaderMap, Request, StatusCode},
    response::Response,
};
use gateway::{
    cli::Flags,
    config::Config,
    http::{self, App},
    metrics::Metrics,
    models::{ModelError, Models},
    router::{Router, WorkerStatus},
    supervisor::Setup,
};
use http_body_util::BodyExt;
use interprocess::local_socket::{
    GenericFilePath,
    tokio::{Stream as Socket, prelude::*},
};
use protocol::{
    codec,
    frame::{BELL, FrameKind, FrameReceiver, FrameSender, Sent},
    handshake::{self, Hello, HelloAck},
    ids::RequestId,
    message::{
        Batch, FinishReason, Generate, ModelInfo, Report, StreamEvent, StreamEventKind, Submission,
        TokenChunk, Usage,
    },
    shm::{Armed, Segment, Side},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
    time::timeout,
};
use tower::ServiceExt;

/// Announces itself, whole at once, and lives until it is killed or the test's folder is gone.
const SCRIPT: &str = r#"#!/bin/sh
cd "$(dirname "$0")/lives" || exit 1
echo "$*" > $$.new && mv $$.new $$ || exit 1
while [ -e $$ ]; do sleep 1; done
"#;

/// Longer than anything takes, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Lets others work until `condition` holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    soon(what, async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

pub struct World {
    pub app: App,
    /// The load of the model that is served from the start.
    pub loading: JoinHandle<Result<String, ModelError>>,
    dir: tempfile::TempDir,
    /// Processes that were played or are.
    known: Mutex<HashSet<u32>>,
}

impl World {
    /// A gateway whose worker processes start now.
    pub fn start(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lives")).unwrap();
        let binary = dir.path().join("worker.sh");
        fs::write(&binary, SCRIPT).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o700)).unwrap();
        let flags = Flags { models: vec!["tiny".into()], worker_bin: Some(binary), ..Flags::default() };
        let config = Config::from_text(Path::new("test.yaml"), settings, &flags).unwrap();
        let metrics = Arc::new(Metrics::default());
        let router = Arc::new(Router::default());
        let models = Models::new(Setup::new(&config, &metrics).unwrap(), Arc::clone(&router));
        let app = App::new(&config, router, models.clone(), metrics);
        let loading = tokio::spawn(async move { models.load("tiny", None).await });
        Self { app, loading, dir, known: Mutex::default() }
    }

    /// A gateway with one worker that serves.
    pub async fn ready(settings: &str) -> (Self, TestWorker) {
        let world = Self::start(settings);
        let worker = world.next_ready_worker().await;
        (world, worker)
    }

    /// The next life, after its handshake.
    pub async fn next_worker(&self) -> TestWorker {
        TestWorker::join(self.next_process().await).await
    }

    pub async fn next_ready_worker(&self) -> TestWorker {
        let mut worker = self.next_worker().await;
        let info = worker.info();
        worker.send(&Report::Ready(info)).await;
        let serves = |it: &WorkerStatus| it.work.as_ref().is_some_and(|work| work.pid == worker.pid);
        until("a ready worker", || self.app.router.workers().iter().any(serves)).await;
        worker
    }

    /// The process of the next life.
    pub async fn next_process(&self) -> TestProcess {
        let lives = self.dir.path().join("lives");
        let next = || {
            let names = fs::read_dir(&lives).unwrap().map(|entry| entry.unwrap().file_name());
            let pids = names.filter_map(|name| name.to_str().and_then(|name| name.parse().ok()));
            pids.filter(|pid| !self.known.lock().unwrap().contains(pid)).min()
        };
        until("a worker process", || next().is_some()).await;
        let pid: u32 = next().unwrap();
        self.known.lock().unwrap().insert(pid);
        let line = fs::read_to_string(lives.join(pid.to_string())).unwrap();
        let args: Vec<_> = line.split_whitespace().collect();
        let ["--socket", socket, "--verify", verify, model] = args[..] else { panic!("{args:?}") };
        let model = model.strip_prefix("--model=").unwrap().to_owned();
        TestProcess { pid, socket: socket.into(), verify: verify.to_owned(), model }
    }

    pub fn routes(&self) -> Routes {
        http::routes(self.app.clone())
    }

    pub async fn send(&self, request: Request<Body>) -> Response {
        soon("a response", self.routes().oneshot(request)).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Reply {
        Reply::read(self.send(Request::get(path).body(Body::empty()).unwrap()).await).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        Reply::read(self.send(post(path, body)).await).await
    }

    /// A request that goes on while the test plays the worker.
    pub fn begin(&self, path: &str, body: &Value) -> JoinHandle<Response> {
        self.begin_request(post(path, body))
    }

    pub fn begin_request(&self, request: Request<Body>) -> JoinHandle<Response> {
        let routes = self.routes();
        tokio::spawn(async move { routes.oneshot(request).await.unwrap() })
    }

    /// A streamed chat with the worker's model, of which `Admitted` is answered.
    pub async fn begin_stream(&self, worker: &mut TestWorker) -> (RequestId, Response) {
        let begun = self.begin(CHAT, &chat(json!({"model": worker.model, "stream": true})));
        let generate = worker.generate().await;
        worker.admit(generate.id).await;
        (generate.id, soon("headers", begun).await.unwrap())
    }

    pub async fn metric(&self, line_start: &str) -> String {
        let text = self.get("/metrics").await.text;
        let line = text.lines().find(|line| line.starts_with(line_start));
        line.unwrap_or_else(|| panic!("no {line_start} in\n{text}")).rsplit(' ').next().unwrap().to_owned()
    }
}

pub const CHAT: &str = "/v1/chat/completions";
pub const COMPLETIONS: &str = "/v1/completions";

pub fn post(path: &str, body: &Value) -> Request<Body> {
    Request::post(path).header("content-type", "application/json").body(body.to_string().into()).unwrap()
}

pub fn chat(more: Value) -> Value {
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

pub fn info(name: &str) -> ModelInfo {
    ModelInfo {
        name: name.into(),
        digest: "0123456789abcdef".into(),
        architecture: "llama".into(),
        context_length: 128,
        vocab_size: 1000,
        weight_bytes: 7000,
        load_micros: 1,
        tokenizer_micros: 1,
    }
}

/// A whole response.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Reply {
    pub async fn read(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        let body = soon("a whole body", body.collect()).await.unwrap().to_bytes();
        Self { status: parts.status, headers: parts.headers, text: String::from_utf8(body.to_vec()).unwrap() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The data of all events.
    pub fn events(&self) -> Vec<String> {
        events(&self.text)
    }

    /// (status, type, code) of an error.
    pub fn error(&self) -> (u16, String, String) {
        let error = &self.json()["error"];
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        assert!(!text("message").is_empty(), "{error}");
        (self.status.as_u16(), text("type"), text("code"))
    }
}

pub fn events(text: &str) -> Vec<String> {
    let events = text.split_terminator("\n\n");
    events
        .map(|event| event.strip_prefix("data: ").unwrap_or_else(|| panic!("{event:?}")).to_owned())
        .collect()
}

/// The next piece of a body; `None` at its end.
pub async fn piece(body: &mut Body) -> Option<Bytes> {
    soon("a piece of a body", body.frame()).await.map(|frame| frame.unwrap().into_data().unwrap())
}

/// A worker that was started and has not spoken yet.
pub struct TestProcess {
    pub pid: u32,
    pub socket: PathBuf,
    pub verify: String,
    pub model: String,
}

/// The worker's side of a life.
pub struct TestWorker {
    pub pid: u32,
    pub model: String,
    pub verify: String,
    pub hello: Hello,
    socket: Socket,
    sender: FrameSender,
    receiver: FrameReceiver,
    queued: std::collections::VecDeque<Submission>,
    body: Vec<u8>,
}

impl TestWorker {
    pub async fn connect(path: &Path) -> (Socket, Hello) {
        let socket = Socket::connect(path.to_fs_name::<GenericFilePath>().unwrap()).await.unwrap();
        let mut io = &socket;
        let mut header = [0; handshake::HEADER_LEN];
        io.read_exact(&mut header).await.unwrap();
        let mut body = vec![0; handshake::body_len(&header).unwrap()];
        io.read_exact(&mut body).await.unwrap();
        let hello = Hello::from_parts(&header, &body).unwrap();
        (socket, hello)
    }

    pub async fn answer(mut socket: &Socket, ack: HelloAck) {
        socket.write_all(&ack.to_bytes().unwrap()).await.unwrap();
    }

    async fn join(process: TestProcess) -> Self {
        let TestProcess { pid, socket, verify, model } = process;
        let (socket, hello) = Self::connect(&socket).await;
        let (producer, consumer) = Segment::open(&hello.segment).unwrap().into_ends(Side::Worker);
        Self::answer(&socket, HelloAck::Accepted { version: handshake::VERSION, pid }).await;
        Self {
            pid,
            model,
            verify,
            socket,
            sender: FrameSender::new(producer, hello.incarnation),
            receiver: FrameReceiver::new(consumer, hello.incarnation),
            hello,
            queued: Default::default(),
            body: Vec::new(),
        }
    }

    /// What it says when it is ready.
    pub fn info(&self) -> ModelInfo {
        info(&self.model)
    }

    pub async fn send(&mut self, report: &Report) {
        codec::encode(report, &mut self.body).unwrap();
        let body = std::mem::take(&mut self.body);
        self.send_bytes(FrameKind::Report, &body).await;
        self.body = body;
    }

    pub async fn send_bytes(&mut self, kind: FrameKind, body: &[u8]) {
        loop {
            match self.sender.send(kind, body).unwrap() {
                Sent::Done { ring_bell } => return self.ring(ring_bell).await,
                Sent::Full { ring_bell } => self.ring(ring_bell).await,
            }
            self.hear().await;
        }
    }

    pub async fn events(&mut self, id: RequestId, kinds: Vec<StreamEventKind>) {
        let events = kinds.into_iter().map(|kind| StreamEvent { id, kind }).collect();
        self.send(&Report::Events(events)).await;
    }

    pub async fn admit(&mut self, id: RequestId) {
        self.events(id, vec![StreamEventKind::Admitted { prompt_tokens: 3 }]).await;
    }

    /// The next submission.
    pub async fn next(&mut self) -> Submission {
        soon("a submission", async {
            loop {
                if let Some(submission) = self.queued.pop_front() {
                    return submission;
                }
                let batch = self.receiver.try_recv().unwrap().map(|frame| {
                    assert_eq!(frame.kind, FrameKind::Batch);
                    codec::decode::<Batch>(frame.body).unwrap()
                });
                let owed = self.receiver.take_owed_bell();
                self.ring(owed).await;
                match batch {
                    Some(batch) => self.queued.extend(batch.submissions),
                    None if self.receiver.arm() == Armed::Sleep => self.hear().await,
                    None => {}
                }
            }
        })
        .await
    }

    pub async fn generate(&mut self) -> Generate {
        match self.next().await {
            Submission::Generate(generate) => *generate,
            other => panic!("{other:?} is no Generate"),
        }
    }

    /// Whether the process is there.
    pub fn process_lives(&self) -> bool {
        Path::new("/proc").join(self.pid.to_string()).exists()
    }

    /// The process dies of a signal, and its end of the socket with it.
    pub fn die(self) {
        assert!(Command::new("kill").args(["-9", &self.pid.to_string()]).status().unwrap().success());
    }

    /// Only the socket's end; for processes that are killed by others.
    pub async fn closed(&self) {
        let mut socket = &self.socket;
        let mut bells = [0; 64];
        soon("the socket's end", async { while let Ok(1..) = socket.read(&mut bells).await {} }).await;
    }

    async fn ring(&self, ring: bool) {
        let mut socket = &self.socket;
        if ring {
            socket.write_all(&[BELL]).await.unwrap();
        }
    }

    async fn hear(&self) {
        let mut socket = &self.socket;
        let mut bells = [0; 64];
        assert_ne!(
            soon("a bell", socket.read(&mut bells)).await.unwrap(),
            0,
            "the gateway closed the socket"
        );
    }
}

pub fn chunk(text: &str) -> StreamEventKind {
    StreamEventKind::Chunk(TokenChunk { text: text.into(), tokens: vec![1] })
}

pub fn finished(reason: FinishReason) -> StreamEventKind {
    let usage = Usage { prompt_tokens: 3, completion_tokens: 2, cached_tokens: 1 };
    StreamEventKind::Finished { reason, usage }
}
