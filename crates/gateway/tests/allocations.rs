//! What the gateway allocates: for a token, a stream, a request.
//!
//! The gateway runs on the test's own thread, whose allocations are counted; its worker and its clients run on another
//! one. `KR_TEST_REQUESTS` makes the test of many requests longer.
#![allow(clippy::unwrap_used)]

mod support;

use std::{net::SocketAddr, thread};

use protocol::message::Report;
use serde_json::json;
use support::*;
use test_support::{
    allocations::{Allocations, CountingAllocator, allocations},
    worker::Generator,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
    sync::{mpsc, oneshot},
};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// A token's text.
const TEXT: &str = " word";

/// Everything beside the gateway.
struct Peer {
    generator: Generator,
    address: SocketAddr,
    gateway: mpsc::UnboundedSender<oneshot::Sender<Allocations>>,
}

/// A client of one connection.
struct Client {
    tcp: TcpStream,
    /// The end of what it has read of the answer.
    read: Vec<u8>,
    /// Events that came before that.
    events: usize,
}

/// How often a pool of the gateway had what was needed.
struct Pool {
    name: &'static str,
    reused: f64,
    allocated: f64,
}

/// Runs a gateway on this thread, and `play` beside it.
fn beside_gateway<F>(settings: &str, play: F)
where
    F: AsyncFnOnce(Peer) + Send + 'static,
{
    let current = || runtime::Builder::new_current_thread().enable_all().build().unwrap();
    current().block_on(async {
        // The worker sends no heartbeats.
        let settings = format!("workers: {{heartbeat_timeout_ms: 60000}}\n{settings}");
        let env = TestEnv::start(&settings);
        let address = env.listen().await;
        let process = env.next_process().await;
        let (gateway, mut asked) = mpsc::unbounded_channel::<oneshot::Sender<Allocations>>();
        let peer = thread::spawn(move || {
            current().block_on(async {
                let mut worker = FakeWorker::join(process).await;
                let info = worker.info();
                worker.send(&Report::Ready(info)).await;
                let generator = Generator::new(worker, TEXT);
                let peer = Peer { generator, address, gateway };
                peer.wait_until_ready().await;
                play(peer).await;
            });
        });
        while let Some(asks) = asked.recv().await {
            let _ = asks.send(allocations());
        }
        peer.join().unwrap();
    });
}

impl Peer {
    async fn wait_until_ready(&self) {
        let mut client = Wire::open(self.address).await;
        loop {
            client.send("GET", "/readyz", "", b"").await;
            if client.answer().await.0.starts_with("http/1.1 200 ") {
                return;
            }
        }
    }

    /// What the gateway has allocated so far.
    async fn allocations(&self) -> Allocations {
        let (asks, answer) = oneshot::channel();
        self.gateway.send(asks).unwrap();
        answer.await.unwrap()
    }

    async fn pools(&self) -> Vec<Pool> {
        let mut client = Wire::open(self.address).await;
        client.send("GET", "/metrics", "", b"").await;
        let metrics = client.answer().await.1;
        let count = |name, outcome| -> f64 {
            let start = format!("kr_pool_requests_total{{pool=\"{name}\",outcome=\"{outcome}\"}} ");
            metrics.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
        };
        let pool = |name| Pool { name, reused: count(name, "reused"), allocated: count(name, "allocated") };
        ["chunks", "queues", "frames"].map(pool).into()
    }

    /// Clients with a stream each, of which every one has seen the beginning.
    async fn streams(&mut self, count: usize, tokens: u32) -> Vec<Client> {
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut client = Client::open(self.address).await;
            client.ask(tokens, true).await;
            clients.push(client);
        }
        while self.generator.live() < count {
            self.generator.receive().await;
            tokio::task::yield_now().await;
        }
        for client in &mut clients {
            client.events(1).await;
        }
        clients
    }

    /// A token for each stream, which each client has seen before the next one comes. `seen` is what they have seen.
    async fn step(&mut self, clients: &mut [Client], seen: &mut usize) {
        let tokens = self.generator.step().await;
        assert_eq!(tokens, clients.len(), "a stream waits for credit");
        *seen += 1;
        for client in clients {
            client.events(*seen).await;
        }
    }
}

impl Client {
    async fn open(address: SocketAddr) -> Self {
        Self { tcp: TcpStream::connect(address).await.unwrap(), read: Vec::new(), events: 0 }
    }

    async fn ask(&mut self, tokens: u32, stream: bool) {
        let body = chat(json!({"max_tokens": tokens, "stream": stream})).to_string();
        let length = body.len();
        let request = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
             \r\n{body}"
        );
        self.read.clear();
        self.events = 0;
        self.tcp.write_all(request.as_bytes()).await.unwrap();
    }

    /// Reads until that many events of the answer have come.
    async fn events(&mut self, count: usize) {
        const BEGIN: &[u8] = b"data: ";
        while self.events < count {
            assert_ne!(soon("a part of an answer", self.tcp.read_buf(&mut self.read)).await.unwrap(), 0);
            let mut done = 0;
            while let Some(at) = self.read[done..].windows(BEGIN.len()).position(|it| it == BEGIN) {
                done += at + BEGIN.len();
                self.events += 1;
            }
            // Half of another beginning may be at the end.
            done = done.max(self.read.len().saturating_sub(BEGIN.len() - 1));
            self.read.drain(..done);
        }
    }
}

#[test]
fn a_token_costs_few_allocations() {
    const STREAMS: usize = 50;
    /// After these, every buffer has its size.
    const WARM: usize = 100;
    const MEASURED: usize = 200;
    let settings = format!("stream_registry: {{adaptive_limits: {{min_streams: {STREAMS}}}}}\n");
    beside_gateway(&settings, async |mut peer| {
        let mut clients = peer.streams(STREAMS, 1000).await;
        let mut seen = 1;
        let (mut before, mut pools_before) = (Allocations::default(), Vec::new());
        for step in 0..WARM + MEASURED {
            if step == WARM {
                pools_before = peer.pools().await;
                before = peer.allocations().await;
            }
            peer.step(&mut clients, &mut seen).await;
        }
        let after = peer.allocations().await;
        let tokens = (STREAMS * MEASURED) as f64;
        let each = (after.count - before.count) as f64 / tokens;
        let kept = (after.live - before.live) as f64 / tokens;
        eprintln!("{each:.2} allocations for a token; {kept:.2} bytes of each stay");
        // Its id is kept for another worker that may have to go on: 4 bytes, in a list that doubles.
        assert!(each < 0.5 && kept < 10.0);
        for (before, after) in pools_before.into_iter().zip(peer.pools().await) {
            let (reused, allocated) = (after.reused - before.reused, after.allocated - before.allocated);
            let ratio = reused / (reused + allocated);
            eprintln!("{}: {:.2} % of {} reused", after.name, 100.0 * ratio, reused + allocated);
            assert!(ratio > 0.95, "{}", after.name);
        }
    });
}

#[test]
fn a_stream_takes_little_memory() {
    const STREAMS: usize = 1000;
    let settings = "stream_registry: {adaptive_limits: {min_streams: 1000, max_streams: 1000}}\n";
    beside_gateway(settings, async |mut peer| {
        let each = |before: Allocations, after: Allocations| (after.live - before.live) / STREAMS as i64;
        let start = peer.allocations().await;
        let mut idle = Vec::new();
        for _ in 0..STREAMS {
            let mut client = Wire::open(peer.address).await;
            client.send("GET", "/livez", "", b"").await;
            client.answer().await;
            idle.push(client);
        }
        let connected = peer.allocations().await;
        drop(idle);
        // Connections that have ended are given back.
        let mut before = connected;
        while before.live > start.live + (connected.live - start.live) / 100 {
            before = peer.allocations().await;
        }
        let mut clients = peer.streams(STREAMS, 1000).await;
        let waiting = peer.allocations().await;
        let mut seen = 1;
        for _ in 0..10 {
            peer.step(&mut clients, &mut seen).await;
        }
        let running = peer.allocations().await;
        let (connection, idle, busy) = (each(start, connected), each(before, waiting), each(before, running));
        eprintln!("bytes: connection {connection}, idle stream {idle}, busy stream {busy}");
        assert!(connection < 24 << 10 && idle < 40 << 10 && busy < 40 << 10);
    });
}

#[test]
fn a_reader_that_stops_takes_bounded_memory() {
    const STREAMS: usize = 10;
    /// Answers of the gateway without a token in between: by then, nothing is under way.
    const QUIET: usize = 20_000;
    beside_gateway("", async |mut peer| {
        let mut before = peer.allocations().await;
        for _ in 0..QUIET / 10 {
            before = peer.allocations().await;
        }
        let clients = peer.streams(STREAMS, u32::MAX).await;
        // Until what the system and the gateway hold for them is full.
        let (mut after, mut quiet, mut tokens) = (before, 0, 0);
        while quiet < QUIET {
            let sent = peer.generator.step().await;
            tokens += sent;
            quiet = if sent == 0 && peer.generator.paused() == STREAMS { quiet + 1 } else { 0 };
            // The gateway's other tasks have their turns before it answers.
            after = peer.allocations().await;
        }
        let each = (after.live - before.live) / STREAMS as i64;
        eprintln!("bytes: stream of a reader that has stopped {each}, after {} tokens", tokens / STREAMS);
        assert!((64 << 10..300 << 10).contains(&each), "hyper's buffer and no more than that");
        drop(clients);
    });
}

#[test]
fn many_requests_leave_nothing_behind() {
    const CLIENTS: usize = 8;
    let requests: usize = std::env::var("KR_TEST_REQUESTS").map_or(3000, |it| it.parse().unwrap());
    beside_gateway("", async move |mut peer| {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(Client::open(peer.address).await);
        }
        let mut before = Allocations::default();
        for round in 0..requests / CLIENTS {
            if round == requests / CLIENTS / 3 {
                before = peer.allocations().await;
            }
            let stream = round % 2 == 0;
            for client in &mut clients {
                client.ask(4, stream).await;
            }
            let end = if stream { "[DONE]\n\n\r\n0\r\n\r\n" } else { "}" };
            let has_ended = |client: &Client| {
                client.read.ends_with(end.as_bytes()) && client.read.windows(4).any(|it| it == b"\r\n\r\n")
            };
            while let Some(client) = clients.iter_mut().find(|client| !has_ended(client)) {
                peer.generator.step().await;
                // In small steps: the worker goes on meanwhile.
                let read = client.tcp.read_buf(&mut client.read);
                let _ = tokio::time::timeout(std::time::Duration::from_millis(1), read).await;
            }
        }
        let after = peer.allocations().await;
        let measured = requests - requests / 3;
        let slope = (after.live - before.live) as f64 / measured as f64;
        eprintln!("{measured} requests: {slope:.2} bytes of each stay");
        assert!(slope < 1024.0);
        assert_eq!(peer.generator.live(), 0);
    });
}
