//! The wire of a worker that a test plays.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    process::Command,
};

use interprocess::local_socket::{
    GenericFilePath,
    tokio::{Stream as Socket, prelude::*},
};
use protocol::{
    codec,
    frame::{BELL, FrameKind, FrameReceiver, FrameSender, Sent},
    handshake::{self, Hello, HelloAck},
    ids::RequestId,
    message::{Batch, Generate, ModelInfo, Report, StreamEvent, StreamEventKind, Submission},
    shm::{Armed, Segment, Side},
};
use rustix::process::{Pid, test_kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{info, soon};

/// A worker that was started and has not connected yet.
pub struct TestProcess {
    pub pid: u32,
    pub socket: PathBuf,
    pub model: String,
}

impl TestProcess {
    /// Whether a process of this id is there, on any system. One that ended and was not reaped is.
    pub fn lives(pid: u32) -> bool {
        test_kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap()).is_ok()
    }
}

/// The worker's ends of the socket and of the segment.
pub struct TestWorker {
    pub pid: u32,
    pub model: String,
    pub hello: Hello,
    socket: Socket,
    sender: FrameSender,
    receiver: FrameReceiver,
    queued: VecDeque<Submission>,
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

    pub(super) async fn join(process: TestProcess) -> Self {
        let TestProcess { pid, socket, model } = process;
        let (socket, hello) = Self::connect(&socket).await;
        let (producer, consumer) = Segment::open(&hello.segment).unwrap().into_ends(Side::Worker);
        Self::answer(&socket, HelloAck::Accepted { version: handshake::VERSION, pid }).await;
        Self {
            pid,
            model,
            socket,
            sender: FrameSender::new(producer, hello.incarnation),
            receiver: FrameReceiver::new(consumer, hello.incarnation),
            hello,
            queued: VecDeque::new(),
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
        assert!(self.try_send_bytes(kind, body).await, "the gateway closed the socket");
    }

    /// False if the gateway closed the socket before it had read all of it.
    pub async fn try_send_bytes(&mut self, kind: FrameKind, body: &[u8]) -> bool {
        loop {
            let (done, ring_bell) = match self.sender.send(kind, body).unwrap() {
                Sent::Done { ring_bell } => (true, ring_bell),
                Sent::Full { ring_bell } => (false, ring_bell),
            };
            let mut socket = &self.socket;
            if ring_bell && socket.write_all(&[BELL]).await.is_err() {
                return false;
            }
            if done {
                return true;
            }
            if !matches!(soon("a doorbell", socket.read(&mut [0; 64])).await, Ok(1..)) {
                return false;
            }
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
                    None if self.receiver.arm() == Armed::Sleep => self.wait_for_doorbell().await,
                    None => {}
                }
            }
        })
        .await
    }

    pub async fn generate(&mut self) -> Generate {
        match self.next().await {
            Submission::Generate(generate) => *generate,
            other => panic!("{other:?} is not a Generate"),
        }
    }

    /// Whether the process is there.
    pub fn process_lives(&self) -> bool {
        TestProcess::lives(self.pid)
    }

    /// The process dies of a signal, and its end of the socket with it.
    pub fn die(self) {
        assert!(Command::new("kill").args(["-9", &self.pid.to_string()]).status().unwrap().success());
    }

    /// Only the socket's end; for processes that are killed by others.
    pub async fn closed(&self) {
        let mut socket = &self.socket;
        let mut doorbells = [0; 64];
        soon("the socket's end", async { while let Ok(1..) = socket.read(&mut doorbells).await {} }).await;
    }

    async fn ring(&self, ring: bool) {
        let mut socket = &self.socket;
        if ring {
            socket.write_all(&[BELL]).await.unwrap();
        }
    }

    async fn wait_for_doorbell(&self) {
        let mut socket = &self.socket;
        let mut doorbells = [0; 64];
        assert_ne!(
            soon("a doorbell", socket.read(&mut doorbells)).await.unwrap(),
            0,
            "the gateway closed the socket"
        );
    }
}
