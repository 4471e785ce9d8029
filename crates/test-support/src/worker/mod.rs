//! A worker whose side of the protocol the test plays.
//!
//! Its *process* is a shell script that announces itself and waits ([`WorkerProgram`]). What it says over the real segment
//! and socket comes from the test, through [`FakeWorker`].

mod generator;
mod program;

use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
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
    message::{
        Batch, Delta, FinishReason, Generate, ModelInfo, Operation, Report, StreamEvent, StreamEventKind,
        Submission, Usage,
    },
    shm::{Armed, Segment, Side},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub use self::{generator::Generator, program::WorkerProgram};
use crate::{process, wait::soon};

/// A worker process that has not connected yet.
pub struct FakeProcess {
    /// Its id.
    pub pid: u32,
    /// The socket to connect to.
    pub socket: PathBuf,
    /// The model that it was started for.
    pub model: String,
}

/// The worker's side of a connection.
pub struct FakeWorker {
    /// Id of its process.
    pub pid: u32,
    /// The model that it was started for.
    pub model: String,
    /// What the gateway said first.
    pub hello: Hello,
    socket: Socket,
    sender: FrameSender,
    receiver: FrameReceiver,
    queued: VecDeque<Submission>,
    /// Tokens that were sent, by their stream.
    tokens: HashMap<RequestId, u32>,
    body: Vec<u8>,
}

impl FakeWorker {
    /// Connects to the gateway's socket and reads its greeting, which has to be answered with [`FakeWorker::answer`].
    ///
    /// # Panics
    /// The gateway doesn't greet.
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

    /// Answers the greeting.
    ///
    /// # Panics
    /// The gateway has closed the socket.
    pub async fn answer(mut socket: &Socket, ack: HelloAck) {
        socket.write_all(&ack.to_bytes().unwrap()).await.unwrap();
    }

    /// Connects for `process` and accepts the gateway's greeting.
    ///
    /// # Panics
    /// The gateway breaks the protocol.
    pub async fn join(process: FakeProcess) -> Self {
        let FakeProcess { pid, socket, model } = process;
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
            tokens: HashMap::new(),
            body: Vec::new(),
        }
    }

    /// What it reports when it is ready.
    pub fn info(&self) -> ModelInfo {
        model_info(&self.model)
    }

    /// Sends a report.
    ///
    /// # Panics
    /// The gateway has closed the socket.
    pub async fn send(&mut self, report: &Report) {
        codec::encode(report, &mut self.body).unwrap();
        let body = std::mem::take(&mut self.body);
        self.send_bytes(FrameKind::Report, &body).await;
        self.body = body;
    }

    /// Sends any bytes as a frame.
    ///
    /// # Panics
    /// The gateway has closed the socket.
    pub async fn send_bytes(&mut self, kind: FrameKind, body: &[u8]) {
        assert!(self.try_send_bytes(kind, body).await, "the gateway closed the socket");
    }

    /// Sends any bytes as a frame. False if the gateway closed the socket before all of them were sent.
    ///
    /// # Panics
    /// The frame can't be encoded.
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

    /// Reports events of one stream, in one report.
    ///
    /// # Panics
    /// The gateway has closed the socket.
    pub async fn events(&mut self, id: RequestId, kinds: Vec<StreamEventKind>) {
        let events = kinds.into_iter().map(|kind| StreamEvent { id, kind: self.placed(id, kind) }).collect();
        self.send(&Report::Events(events)).await;
    }

    /// Gives a delta its place behind those that were sent before.
    fn placed(&mut self, id: RequestId, kind: StreamEventKind) -> StreamEventKind {
        let StreamEventKind::Delta(delta) = kind else { return kind };
        let next = self.tokens.entry(id).or_default();
        let delta = Delta { first_token: *next, ..delta };
        *next = delta.token_range().end;
        StreamEventKind::Delta(delta)
    }

    /// Reports that the prompt was prepared.
    ///
    /// # Panics
    /// The gateway has closed the socket.
    pub async fn admit(&mut self, id: RequestId) {
        self.events(
            id,
            vec![
                StreamEventKind::Prepared { prompt_tokens: 3 },
                StreamEventKind::Started { cached_tokens: 0 },
            ],
        )
        .await;
    }

    /// Waits for the next submission.
    ///
    /// # Panics
    /// None comes, or the gateway breaks the protocol.
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

    /// Submissions that have arrived. Waits for none.
    ///
    /// # Panics
    /// The gateway breaks the protocol.
    pub async fn arrived(&mut self) -> Vec<Submission> {
        while let Some(frame) = self.receiver.try_recv().unwrap() {
            assert_eq!(frame.kind, FrameKind::Batch);
            let batch = codec::decode::<Batch>(frame.body).unwrap();
            self.queued.extend(batch.submissions);
            let owed = self.receiver.take_owed_bell();
            self.ring(owed).await;
        }
        let owed = self.receiver.take_owed_bell();
        self.ring(owed).await;
        self.queued.drain(..).collect()
    }

    /// Waits for the next submission, which is a request.
    ///
    /// # Panics
    /// It is something else, or none comes.
    pub async fn generate(&mut self) -> Generate {
        match self.next().await {
            Submission::Generate(generate) => {
                // What follows has its place behind what another worker generated.
                self.tokens.insert(generate.id, generate.resume.len() as u32);
                *generate
            }
            other => panic!("expected Generate, not {other:?}"),
        }
    }

    /// Waits for the next submission, which is an operation.
    ///
    /// # Panics
    /// It is something else, or none comes.
    pub async fn operation(&mut self) -> Operation {
        match self.next().await {
            Submission::Operation(operation) => *operation,
            other => panic!("expected an operation, not {other:?}"),
        }
    }

    /// Whether the process is there.
    pub fn process_lives(&self) -> bool {
        process::is_alive(self.pid)
    }

    /// Kills the process, and closes its end of the socket.
    pub fn die(self) {
        process::kill(self.pid);
    }

    /// Waits until the gateway has closed the socket.
    ///
    /// # Panics
    /// It doesn't.
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

/// What a worker reports of its model when it is ready.
pub fn model_info(name: &str) -> ModelInfo {
    ModelInfo {
        name: name.into(),
        digest: "0123456789abcdef".into(),
        architecture: "llama".into(),
        context_length: 128,
        vocab_size: 1000,
        weight_bytes: 7000,
        load_micros: 1,
        tokenizer_micros: 1,
        kv_bytes: 2000,
        other_bytes: 1000,
        draft_model: None,
        embedding_size: None,
    }
}

/// Text of one token.
pub fn chunk(text: &str) -> StreamEventKind {
    StreamEventKind::Delta(Delta { tokens: vec![1].into(), text: text.into(), ..Delta::default() })
}

/// The end of a stream.
pub fn finished(reason: FinishReason) -> StreamEventKind {
    let usage = Usage { prompt_tokens: 3, completion_tokens: 2, cached_tokens: 1, ..Usage::default() };
    StreamEventKind::Finished { reason, usage }
}
