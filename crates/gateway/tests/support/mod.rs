//! A gateway in this process, with its real supervisor, and a worker that the test plays itself.

#![allow(dead_code, unused_imports, clippy::unwrap_used, unreachable_pub, missing_docs)]

use std::{net::SocketAddr, path::Path, sync::Arc};

use axum::{
    Router as Routes,
    body::{Body, Bytes},
    http::{HeaderMap, Request, StatusCode},
    response::Response,
};
use gateway::{
    assembly,
    cli::Flags,
    config::{Changes, Config, ConfigError},
    fleet::{ModelError, WorkerStatus},
    http::{self, App},
    reload::Reloader,
    telemetry::LogFilter,
};
use http_body_util::BodyExt;
use protocol::{ids::RequestId, message::Report};
use serde_json::{Value, json};
use test_support::worker::WorkerProgram;
pub use test_support::{
    process::is_alive,
    wait::{PATIENCE, soon, until},
    worker::{FakeProcess, FakeWorker, chunk, finished, model_info},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tower::ServiceExt;

pub struct TestEnv {
    pub app: App,
    /// The load of the model that is served from the start.
    pub loading: JoinHandle<Result<String, ModelError>>,
    flags: Flags,
    reloader: Reloader,
    program: WorkerProgram,
}

impl TestEnv {
    /// A gateway whose worker processes start now.
    pub fn start(settings: &str) -> Self {
        let program = WorkerProgram::new();
        let worker_bin = Some(program.path().to_owned());
        let flags = Flags { models: vec!["tiny".into()], worker_bin, ..Flags::default() };
        let config = Config::from_text(Path::new("test.yaml"), settings, &flags).unwrap();
        let app = assembly::assemble(&config).unwrap();
        let reloader = Reloader::new(flags.clone(), config, app.clone(), LogFilter::default());
        let models = app.models.clone();
        let loading = tokio::spawn(async move { models.load("tiny", None).await });
        Self { app, loading, flags, reloader, program }
    }

    /// As if the configuration file were `settings` now, and SIGHUP came.
    pub fn reload(&mut self, settings: &str) -> Result<Changes, ConfigError> {
        self.reloader.apply(&Config::from_text(Path::new("test.yaml"), settings, &self.flags)?)
    }

    /// A gateway with one worker that serves.
    pub async fn ready(settings: &str) -> (Self, FakeWorker) {
        let env = Self::start(settings);
        let worker = env.next_ready_worker().await;
        (env, worker)
    }

    /// The next worker, after its handshake.
    pub async fn next_worker(&self) -> FakeWorker {
        self.program.next_worker().await
    }

    pub async fn next_ready_worker(&self) -> FakeWorker {
        let mut worker = self.next_worker().await;
        let info = worker.info();
        worker.send(&Report::Ready(info)).await;
        let serves = |it: &WorkerStatus| it.work.as_ref().is_some_and(|work| work.pid == worker.pid);
        until("a ready worker", || self.app.registry.workers().iter().any(serves)).await;
        worker
    }

    /// The process of the next worker.
    pub async fn next_process(&self) -> FakeProcess {
        self.program.next_process().await
    }

    pub fn routes(&self) -> Routes {
        http::routes(self.app.clone())
    }

    /// The same gateway behind a socket, until the test ends.
    pub async fn listen(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(http::server::serve(listener, self.app.clone(), std::future::pending()));
        address
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
    pub async fn begin_stream(&self, worker: &mut FakeWorker) -> (RequestId, Response) {
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

/// A client that writes and reads bytes.
pub struct Wire<S = TcpStream>(pub S);

impl Wire<TcpStream> {
    pub async fn open(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        soon("bytes to be taken", self.0.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Sends a request with these headers and this body.
    pub async fn send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {length}\r\n\r\n"
        );
        self.write(head).await;
        self.write(body).await;
    }

    /// The next answer: its head, and its body if it says how long it is.
    pub async fn answer(&mut self) -> (String, String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = soon("a head", self.0.read_u8()).await;
            head.push(byte.unwrap_or_else(|e| panic!("{e} after {:?}", String::from_utf8_lossy(&head))));
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head
            .split("content-length: ")
            .nth(1)
            .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
        let mut body = vec![0; length];
        soon("a body", self.0.read_exact(&mut body)).await.unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    /// Everything up to the end of the connection.
    pub async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        // A reset is an end, too.
        let _ = soon("the end of the connection", self.0.read_to_end(&mut rest)).await;
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// The next piece of a body; `None` at its end.
pub async fn piece(body: &mut Body) -> Option<Bytes> {
    soon("a piece of a body", body.frame()).await.map(|frame| frame.unwrap().into_data().unwrap())
}
