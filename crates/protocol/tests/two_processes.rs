//! Two real processes, a real segment and a real socket. Each test runs its own binary again as the worker.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

use std::{
    env,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use interprocess::local_socket::{GenericFilePath, ListenerOptions, Stream, prelude::*};
use protocol::{
    frame::{BELL, FrameKind, FrameReceiver, FrameSender, Sent},
    handshake::{HEADER_LEN, Hello, HelloAck, VERSION, body_len, read_hello, write_ack},
    ids::Incarnation,
    options::WorkerOptions,
    shm::{Armed, RuntimeDir, Segment, Side, runtime_dir},
};

const RING: usize = 4096;
const LIFE: Incarnation = Incarnation(42);
/// Set for the worker: the socket's path.
const SOCKET: &str = "KR_TEST_SOCKET";

/// One side's view of the other.
struct Link {
    stream: Stream,
    sender: FrameSender,
    receiver: FrameReceiver,
    /// How often the peer waited for the space that was freed here.
    waited_for: usize,
}

impl Link {
    fn new(segment: Segment, side: Side, stream: Stream) -> Self {
        let (producer, consumer) = segment.into_ends(side);
        Self {
            stream,
            sender: FrameSender::new(producer, LIFE),
            receiver: FrameReceiver::new(consumer, LIFE),
            waited_for: 0,
        }
    }

    fn ring(&mut self) {
        match self.stream.write_all(&[BELL]) {
            // It had all it wanted and has gone: reading tells.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            result => result.unwrap(),
        }
    }

    /// True if the whole body went into the ring.
    fn send(&mut self, kind: FrameKind, body: &[u8]) -> bool {
        let sent = self.sender.send(kind, body).unwrap();
        let (Sent::Done { ring_bell } | Sent::Full { ring_bell }) = sent;
        if ring_bell {
            self.ring();
        }
        matches!(sent, Sent::Done { .. })
    }

    fn receive(&mut self) -> Option<(FrameKind, Vec<u8>)> {
        let frame = self.receiver.try_recv().unwrap().map(|frame| (frame.kind, frame.body.to_vec()));
        if self.receiver.take_owed_bell() {
            self.waited_for += 1;
            self.ring();
        }
        frame
    }

    /// Waits for bells; false at the peer's end.
    fn wait(&mut self) -> bool {
        match self.stream.read(&mut [0; 64]) {
            Ok(bells) => bells > 0,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The gateway's side of a test, with its worker. The worker is killed on drop, should it still live.
struct Gateway {
    _folder: RuntimeDir,
    worker: Child,
    link: Link,
}

impl Gateway {
    /// Runs the test `name` again as a worker, and shakes hands with it.
    fn start(name: &str) -> Self {
        let folder = runtime_dir().unwrap();
        let dir = folder.path().unwrap();
        let socket = dir.join("socket");
        let listener = ListenerOptions::new().name(socket_name(&socket)).create_sync().unwrap();
        let worker = Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(SOCKET, &socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let segment = Segment::create(dir.join("segment"), RING as u64).unwrap();
        let mut stream = listener.accept().unwrap();
        let hello = Hello {
            version: VERSION,
            incarnation: LIFE,
            segment: segment.path().to_str().unwrap().to_owned(),
            ring_bytes: segment.ring_bytes(),
            pid: std::process::id(),
            options: WorkerOptions::default(),
        };
        stream.write_all(&hello.to_bytes().unwrap()).unwrap();
        assert_eq!(read_ack(&mut stream).accepted().unwrap(), worker.id());
        segment.unlink().unwrap();
        Self { _folder: folder, worker, link: Link::new(segment, Side::Gateway, stream) }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.worker.kill();
        let _ = self.worker.wait();
    }
}

/// Where this process is the worker of a test: its side of the link.
fn worker() -> Option<Link> {
    let socket = PathBuf::from(env::var_os(SOCKET)?);
    let mut stream = Stream::connect(socket_name(&socket)).unwrap();
    let hello = read_hello(&mut stream).unwrap();
    assert_eq!(hello.incarnation, LIFE);
    let segment = Segment::open(hello.segment).unwrap();
    assert_eq!(segment.ring_bytes(), hello.ring_bytes);
    write_ack(&mut stream, &HelloAck::Accepted { version: VERSION, pid: std::process::id() }).unwrap();
    Some(Link::new(segment, Side::Worker, stream))
}

fn read_ack(stream: &mut Stream) -> HelloAck {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).unwrap();
    let mut body = vec![0; body_len(&header).unwrap()];
    stream.read_exact(&mut body).unwrap();
    HelloAck::from_parts(&header, &body).unwrap()
}

fn socket_name(path: &Path) -> interprocess::local_socket::Name<'_> {
    path.to_fs_name::<GenericFilePath>().unwrap()
}

/// Bodies that both processes can make for themselves; every 16th is larger than the ring, up to five times.
fn bodies(mut seed: u64) -> impl Iterator<Item = Vec<u8>> {
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    };
    (0..2000).map(move |index| {
        let most = if index % 16 == 0 { 5 * RING as u64 } else { 300 };
        let len = random() % most;
        (0..len).map(|_| random() as u8).collect()
    })
}

/// Number, total length, and CRC-32 of all with their lengths.
fn summary(bodies: impl Iterator<Item = Vec<u8>>) -> (usize, usize, u32) {
    let mut hasher = crc32fast::Hasher::new();
    let (mut count, mut bytes) = (0, 0);
    for body in bodies {
        hasher.update(&body.len().to_le_bytes());
        hasher.update(&body);
        (count, bytes) = (count + 1, bytes + body.len());
    }
    (count, bytes, hasher.finalize())
}

/// Sends all `outgoing` and receives as many bodies as `expected`, in both directions at once.
fn exchange(
    link: &mut Link,
    kind: FrameKind,
    outgoing: impl Iterator<Item = Vec<u8>>,
    expected: usize,
) -> Vec<Vec<u8>> {
    let mut outgoing = outgoing.peekable();
    let mut received = Vec::new();
    while outgoing.peek().is_some() || received.len() < expected {
        while let Some(body) = outgoing.peek() {
            if !link.send(kind, body) {
                break;
            }
            outgoing.next();
        }
        while let Some((other, body)) = link.receive() {
            assert_ne!(other, kind);
            received.push(body);
        }
        let done = outgoing.peek().is_none() && received.len() == expected;
        if !done && link.receiver.arm() == Armed::Sleep {
            assert!(link.wait(), "the peer left too early");
        }
    }
    received
}

#[test]
fn bodies_pass_in_both_directions() {
    let (requests, reports) = (summary(bodies(1)), summary(bodies(2)));
    if let Some(mut link) = worker() {
        let received = exchange(&mut link, FrameKind::Report, bodies(2), requests.0);
        assert_eq!(summary(received.into_iter()), requests);
        return;
    }
    let mut gateway = Gateway::start("bodies_pass_in_both_directions");
    let received = exchange(&mut gateway.link, FrameKind::Batch, bodies(1), reports.0);
    assert_eq!(summary(received.into_iter()), reports);
    while gateway.link.wait() {}
    assert!(gateway.worker.wait().unwrap().success(), "the worker received something else");
    assert_eq!(gateway.link.receive(), None);
}

const WHOLE: &[u8] = b"whole";
/// Larger than what the gateway lets pass before it kills.
const NEVER_WHOLE: usize = 64 * RING;

#[test]
fn a_killed_writer_leaves_no_torn_body() {
    if let Some(mut link) = worker() {
        assert!(link.send(FrameKind::Report, WHOLE));
        let body = vec![7; NEVER_WHOLE];
        while !link.send(FrameKind::Report, &body) && link.wait() {}
        return;
    }
    // Each time a little later; the worker is copying, about to, or asleep when it is hit.
    for turns in 0..12 {
        let mut gateway = Gateway::start("a_killed_writer_leaves_no_torn_body");
        let link = &mut gateway.link;
        let mut before = Vec::new();
        // Only the large body fills the ring, so that its writer has to wait for space.
        while link.waited_for <= turns {
            match link.receive() {
                Some(frame) => before.push(frame),
                None if link.receiver.arm() == Armed::Sleep => {
                    assert!(link.wait(), "it dies only when killed")
                }
                None => {}
            }
        }
        assert_eq!(before, [(FrameKind::Report, WHOLE.to_vec())]);
        gateway.worker.kill().unwrap();

        while gateway.link.wait() {}
        assert_eq!(
            gateway.link.receive(),
            None,
            "what is left in the ring is whole frames, but no whole body"
        );
        assert_eq!(gateway.link.receiver.arm(), Armed::Sleep);
        assert!(!gateway.worker.wait().unwrap().success());
    }
}
