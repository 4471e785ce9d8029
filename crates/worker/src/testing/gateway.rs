//! The gateway's end of a link, for tests in one process.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use interprocess::local_socket::{GenericFilePath, Listener, ListenerOptions, Stream, prelude::*};
use protocol::{
    codec,
    frame::{BELL, FrameKind, FrameReceiver, FrameSender, Sent},
    handshake::{HEADER_LEN, Hello, HelloAck, VERSION, body_len},
    ids::Incarnation,
    message::{Batch, Report, StreamEvent, Submission},
    options::WorkerOptions,
    shm::{Armed, Consumer, Producer},
};
use tempfile::TempDir;

pub(crate) const LIFE: Incarnation = Incarnation(3);

/// Longest wait for a worker: it is reached only if something is wrong.
const DEADLINE: Duration = Duration::from_secs(60);

/// An open link.
pub(crate) struct Gateway {
    socket: Stream,
    frames: FrameSender,
    reports: FrameReceiver,
}

/// A listening socket in a folder of its own.
pub(crate) fn listen() -> (Listener, PathBuf, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let name = path.as_path().to_fs_name::<GenericFilePath>().unwrap();
    (ListenerOptions::new().name(name).create_sync().unwrap(), path, dir)
}

/// Both ends of a socket.
pub(crate) fn sockets() -> (Stream, Stream) {
    let (listener, path, _dir) = listen();
    let theirs = Stream::connect(path.as_path().to_fs_name::<GenericFilePath>().unwrap()).unwrap();
    (listener.accept().unwrap(), theirs)
}

/// The bytes with which a gateway greets a worker.
pub(crate) fn hello(segment: &Path, options: WorkerOptions) -> Vec<u8> {
    let segment = segment.to_str().unwrap().into();
    let hello = Hello { version: VERSION, incarnation: LIFE, segment, ring_bytes: 1 << 16, pid: 1, options };
    hello.to_bytes().unwrap()
}

/// Takes a worker's connection, greets it, and waits for its answer.
pub(crate) fn greet(listener: &Listener, hello: &[u8]) -> (Stream, HelloAck) {
    let mut socket = listener.accept().unwrap();
    socket.set_recv_timeout(Some(DEADLINE)).unwrap();
    socket.write_all(hello).unwrap();
    let mut header = [0; HEADER_LEN];
    socket.read_exact(&mut header).unwrap();
    let mut body = vec![0; body_len(&header).unwrap()];
    socket.read_exact(&mut body).unwrap();
    (socket, HelloAck::from_parts(&header, &body).unwrap())
}

impl Gateway {
    pub(crate) fn new(socket: Stream, to_worker: Producer, from_worker: Consumer, max_report: usize) -> Self {
        socket.set_recv_timeout(Some(DEADLINE)).unwrap();
        Self {
            socket,
            frames: FrameSender::new(to_worker, LIFE),
            reports: FrameReceiver::new(from_worker, LIFE).with_max_body(max_report),
        }
    }

    pub(crate) fn send(&mut self, submissions: Vec<Submission>) {
        let mut body = Vec::new();
        codec::encode(&Batch { submissions }, &mut body).unwrap();
        self.send_frame(FrameKind::Batch, &body);
    }

    pub(crate) fn send_frame(&mut self, kind: FrameKind, body: &[u8]) {
        match self.frames.send(kind, body).unwrap() {
            Sent::Done { ring_bell: true } => self.ring(),
            Sent::Done { ring_bell: false } => {}
            Sent::Full { .. } => panic!("a batch fills the ring"),
        }
    }

    /// Waits for the next report.
    pub(crate) fn report(&mut self) -> Report {
        loop {
            let frame = self.reports.try_recv().unwrap();
            let report = frame.map(|frame| {
                assert_eq!(frame.kind, FrameKind::Report);
                codec::decode(frame.body).unwrap()
            });
            if self.reports.take_owed_bell() {
                self.ring();
            }
            if let Some(report) = report {
                return report;
            }
            if self.reports.arm() == Armed::Sleep {
                let read = self.socket.read(&mut [0; 64]).unwrap();
                assert_ne!(read, 0, "the worker has gone");
            }
        }
    }

    /// Events of all reports up to the one with an event that `is_awaited`.
    pub(crate) fn events_until(&mut self, is_awaited: impl Fn(&StreamEvent) -> bool) -> Vec<StreamEvent> {
        let mut all = Vec::new();
        while !all.iter().any(&is_awaited) {
            let Report::Events(events) = self.report() else { panic!("not events") };
            all.extend(events);
        }
        all
    }

    fn ring(&mut self) {
        self.socket.write_all(&[BELL]).unwrap();
    }
}
