//! Frames to the gateway, from any thread.

use std::{
    io::Write,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use interprocess::local_socket::Stream;
use protocol::{
    codec,
    frame::{BELL, FrameKind, FrameSender, Sent},
    message::{Report, Submission},
};
use tracing::{error, warn};

use super::fit::{Fitted, fit, is_within_limits};
use crate::{report_sink::ReportSink, requests::RequestTable};

/// Longest wait for the doorbell before the ring is looked at again. The doorbell reaches the receiving thread, which
/// may itself be waiting for the engine; this keeps the two from waiting for each other.
const SPACE_RECHECK: Duration = Duration::from_millis(20);

/// The sending end, shared by all threads that report.
pub struct LinkSender {
    frames: Mutex<Frames>,
    socket: Arc<Stream>,
    /// Where a request is cancelled whose output can't be sent.
    requests: Arc<RequestTable>,
    /// How often the gateway has rung; changes when there may be space again.
    bells: Mutex<u64>,
    bell_heard: Condvar,
}

struct Frames {
    sender: FrameSender,
    /// Reused for every encoding.
    body: Vec<u8>,
}

impl LinkSender {
    /// Wraps the sending end of a link.
    pub fn new(sender: FrameSender, socket: Arc<Stream>, requests: Arc<RequestTable>) -> Self {
        let frames = Mutex::new(Frames { sender, body: Vec::new() });
        Self { frames, socket, requests, bells: Mutex::new(0), bell_heard: Condvar::new() }
    }

    /// Called by the receiving thread when the gateway has rung.
    pub fn hear_bell(&self) {
        *self.bells.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.bell_heard.notify_all();
    }

    /// Wakes the gateway.
    pub fn ring(&self) {
        // An error means that the gateway has gone: the receiving thread sees it too, and acts.
        let _ = (&*self.socket).write_all(&[BELL]);
    }

    /// Sends the encoded report, waiting for space if need be.
    fn send(&self, frames: &mut Frames) {
        let Frames { sender, body } = frames;
        loop {
            let heard = self.bells();
            match sender.send(FrameKind::Report, body) {
                Ok(Sent::Done { ring_bell }) => {
                    if ring_bell {
                        self.ring();
                    }
                    return;
                }
                Ok(Sent::Full { ring_bell }) => {
                    if ring_bell {
                        self.ring();
                    }
                    self.wait_for_space(heard);
                }
                Err(error) => {
                    error!(%error, "the link to the gateway is broken");
                    std::process::exit(1);
                }
            }
        }
    }

    fn wait_for_space(&self, heard: u64) {
        let bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.bell_heard.wait_timeout_while(bells, SPACE_RECHECK, |bells| *bells == heard);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn bells(&self) -> u64 {
        *self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReportSink for LinkSender {
    fn report(&self, report: &Report) {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if is_within_limits(report) && frames.encode(report) {
            return self.send(&mut frames);
        }
        let Fitted { reports, ended } = fit(report, frames.sender.max_body());
        for report in &reports {
            if !frames.encode(report) {
                // Without it, the gateway would wait forever. It sees this process end, and starts another worker.
                error!("a report of this worker can't be sent; stopping");
                std::process::exit(1);
            }
            self.send(&mut frames);
        }
        drop(frames);
        for id in ended {
            error!(%id, "an output was too large to be sent; its stream was ended");
            self.requests.apply(&Submission::Cancel(id));
        }
    }
}

impl Frames {
    /// Puts the report into `body`; false if it can't be encoded or is too large to be sent.
    fn encode(&mut self, report: &Report) -> bool {
        match codec::encode(report, &mut self.body) {
            Ok(()) => self.body.len() <= self.sender.max_body(),
            Err(error) => {
                warn!("a report can't be encoded: {:#}", anyhow::Error::new(error));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use interprocess::local_socket::{GenericFilePath, ListenerOptions, prelude::*};
    use protocol::{
        frame::FrameReceiver,
        ids::{Incarnation, RequestId},
        message::{Delta, FailureKind, StreamEvent, StreamEventKind},
        shm::heap_ring,
    };

    use super::*;

    const LIFE: Incarnation = Incarnation(1);

    /// A sender of reports of at most `max` bytes, and what the gateway gets of them.
    fn link(max: usize, requests: &Arc<RequestTable>) -> (LinkSender, FrameReceiver) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let name = || path.as_path().to_fs_name::<GenericFilePath>().unwrap();
        let _listener = ListenerOptions::new().name(name()).create_sync().unwrap();
        let socket = Arc::new(Stream::connect(name()).unwrap());
        let (producer, consumer) = heap_ring(1 << 16);
        let sender = FrameSender::new(producer, LIFE).with_max_body(max);
        (LinkSender::new(sender, socket, Arc::clone(requests)), FrameReceiver::new(consumer, LIFE))
    }

    fn events(receiver: &mut FrameReceiver) -> Vec<StreamEvent> {
        let mut all = Vec::new();
        while let Some(frame) = receiver.try_recv().unwrap() {
            let Report::Events(events) = codec::decode(frame.body).unwrap() else { panic!("no events") };
            all.extend(events);
        }
        all
    }

    #[test]
    fn an_output_that_can_not_be_sent_ends_its_stream_and_no_other() {
        let requests = Arc::new(RequestTable::default());
        let (large, small) = (RequestId(1), RequestId(2));
        let handles = [large, small].map(|id| requests.begin(id, 9).unwrap());
        let (sender, mut receiver) = link(1000, &requests);
        let chunk = |id, len| {
            let text = "x".repeat(len);
            StreamEvent {
                id,
                kind: StreamEventKind::Delta(Delta {
                    first_token: 0,
                    parts: Vec::new(),
                    logprobs: Vec::new(),
                    tokens: vec![7].into(),
                    text: text.into(),
                }),
            }
        };
        sender.report(&Report::Events(vec![chunk(large, 2000), chunk(small, 2), chunk(large, 2)]));

        let sent = events(&mut receiver);
        let [failed, passed] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!(*passed, chunk(small, 2));
        assert_eq!(failed.id, large);
        assert!(matches!(&failed.kind, StreamEventKind::Failed(it) if it.kind == FailureKind::Internal));
        assert_eq!(handles.map(|request| request.is_cancelled()), [true, false], "the engine is told");
    }

    #[test]
    fn more_than_a_report_takes_goes_in_several() {
        let (sender, mut receiver) = link(100, &Arc::default());
        let kind = StreamEventKind::Prepared { prompt_tokens: 1 };
        let many: Vec<_> = (0..500).map(|id| StreamEvent { id: RequestId(id), kind: kind.clone() }).collect();
        sender.report(&Report::Events(many.clone()));
        assert_eq!(events(&mut receiver), many);
    }
}
