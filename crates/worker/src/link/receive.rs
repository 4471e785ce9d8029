//! The thread that reads the link.

use std::{io::Read, sync::Arc, time::Instant};

use anyhow::Context;
use crossbeam_channel::Sender;
use interprocess::local_socket::Stream;
use protocol::{
    busy_poll::BusyPoll,
    codec,
    frame::{FrameKind, FrameReceiver},
    ids::RequestId,
    message::{
        Batch, Failure, FailureKind, Generate, Operation, Report, StreamEvent, StreamEventKind, Submission,
    },
    shm::Armed,
};
use tracing::{debug_span, info, warn};

use super::LinkSender;
use crate::{
    engine::EngineMessage,
    prepare::{OperationJob, Pool},
    report_sink::ReportSink,
    request_trace::RequestTrace,
    requests::RequestTable,
};

/// The receiving end, and where submissions go.
pub struct Receiver {
    /// Frames from the gateway.
    pub frames: FrameReceiver,
    /// Carries the doorbells of both sides.
    pub socket: Arc<Stream>,
    /// Rings the gateway's doorbell, and reports what can't be prepared.
    pub sender: Arc<LinkSender>,
    /// Every request in the worker.
    pub requests: Arc<RequestTable>,
    /// Where new requests go.
    pub pool: Pool,
    /// Where changes of old ones go.
    pub engine: Sender<EngineMessage>,
}

impl Receiver {
    /// Reads until the gateway has gone, and ends the process then: nobody is left to work for.
    pub fn run(mut self) -> ! {
        match self.read_all() {
            Ok(()) => {
                info!("the gateway has gone; stopping");
                std::process::exit(0)
            }
            Err(error) => {
                warn!("the link to the gateway is broken: {error:#}");
                std::process::exit(1)
            }
        }
    }

    pub(super) fn read_all(&mut self) -> anyhow::Result<()> {
        let mut bells = [0; 256];
        let mut busy_poll = BusyPoll::default();
        loop {
            while let Some(batch) = self.next_batch()? {
                busy_poll.found(Instant::now());
                self.handle(batch);
            }
            if self.frames.take_owed_bell() {
                self.sender.ring();
            }
            if busy_poll.looks_on(Instant::now()) {
                // The thread that prepares the answer may need this core.
                std::thread::yield_now();
                continue;
            }
            if self.frames.arm() == Armed::Ready {
                continue;
            }
            match (&*self.socket).read(&mut bells) {
                Ok(0) => return Ok(()),
                Ok(_) => self.sender.hear_bell(),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // A gateway that was killed may reset the socket.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error).context("socket"),
            }
        }
    }

    fn next_batch(&mut self) -> anyhow::Result<Option<Batch>> {
        let Some(frame) = self.frames.try_recv()? else { return Ok(None) };
        anyhow::ensure!(frame.kind == FrameKind::Batch, "a gateway sends batches, not {:?}", frame.kind);
        Ok(Some(codec::decode(frame.body)?))
    }

    fn handle(&self, batch: Batch) {
        let _span = debug_span!("receive", submissions = batch.submissions.len()).entered();
        let mut changed = false;
        let mut operations = Vec::new();
        for submission in batch.submissions {
            if let Submission::Operation(operation) = submission {
                operations.push(operation);
                continue;
            }
            // What follows may be about them.
            self.operate(&mut operations);
            match submission {
                Submission::Generate(generate) => {
                    let _span = RequestTrace::new(&generate).receive().entered();
                    self.begin(generate);
                }
                Submission::Operation(_) => {}
                Submission::Drain => {
                    // Blocking is right: everything before the drain has been handled.
                    let _ = self.engine.send(EngineMessage::Drain);
                }
                Submission::Cancel(id) => {
                    self.requests.apply(&submission);
                    self.pool.cancel(id);
                    changed = true;
                }
                Submission::Credit { .. } => {
                    self.requests.apply(&submission);
                    changed = true;
                }
            }
        }
        self.operate(&mut operations);
        if changed {
            // If the channel is full, the engine is about to look at everything anyway.
            let _ = self.engine.try_send(EngineMessage::Wake);
        }
    }

    fn begin(&self, generate: Box<Generate>) {
        let id = generate.id;
        let failure = match self.requests.begin(id, generate.credit) {
            Some(request) => match self.pool.submit(generate, request) {
                Ok(()) => return,
                Err(failure) => {
                    self.requests.end(id);
                    failure
                }
            },
            None => twice(id),
        };
        self.refuse(vec![(id, failure)]);
    }

    /// Queues operations that came one behind the other, and leaves none in the list.
    #[allow(clippy::vec_box)] // they come in boxes and go on in them
    fn operate(&self, operations: &mut Vec<Box<Operation>>) {
        if operations.is_empty() {
            return;
        }
        let handles = self.requests.begin_all(operations.iter().map(|operation| operation.id));
        let (mut jobs, mut refused) = (Vec::with_capacity(operations.len()), Vec::new());
        for (operation, request) in operations.drain(..).zip(handles) {
            match request {
                Some(request) => jobs.push(OperationJob { operation, request }),
                None => refused.push((operation.id, twice(operation.id))),
            }
        }
        let overloaded = self.pool.submit_operations(jobs);
        let ids: Vec<_> = overloaded.iter().map(|(id, _)| *id).collect();
        self.requests.end_all(&ids);
        refused.extend(overloaded);
        self.refuse(refused);
    }

    fn refuse(&self, refused: Vec<(RequestId, Failure)>) {
        if refused.is_empty() {
            return;
        }
        let event = |(id, failure)| StreamEvent { id, kind: StreamEventKind::Failed(failure) };
        self.sender.report(&Report::Events(refused.into_iter().map(event).collect()));
    }
}

fn twice(id: RequestId) -> Failure {
    Failure { kind: FailureKind::Internal, param: None, message: format!("{id} was submitted twice") }
}
