//! Events of a step, in as few reports as possible.

use std::sync::Arc;

use protocol::message::{Answer, Failure, FailureKind, Report, StreamEvent, StreamEventKind, TokenLogprobs};

use crate::report_sink::ReportSink;

/// Approximate bytes of events in one report. More than a step usually has, and less than the ring has room for, so that
/// the first events need not wait for the last.
const REPORT_BYTES: usize = 256 << 10;

/// Bytes of one event that are sent at all: a report with it alone is within the codec's limit.
const EVENT_BYTES: usize = 32 << 20;

/// Bytes of a failure's message. Errors of other libraries may quote whatever they were given.
const MESSAGE_BYTES: usize = 4 << 10;

/// Collects events and sends them.
pub(in crate::engine) struct Outbox {
    reports: Arc<dyn ReportSink>,
    events: Vec<StreamEvent>,
    bytes: usize,
}

impl Outbox {
    pub(in crate::engine) fn new(reports: Arc<dyn ReportSink>) -> Self {
        Self { reports, events: Vec::new(), bytes: 0 }
    }

    /// Adds an event. False if it could not be sent: then the stream's failure is sent in its place, and nothing may
    /// follow.
    pub(in crate::engine) fn push(&mut self, event: StreamEvent) -> bool {
        let bytes = size(&event);
        if bytes > EVENT_BYTES && !event.kind.is_terminal() {
            self.push(StreamEvent {
                id: event.id,
                kind: failed("a piece of the output is too large to be sent"),
            });
            return false;
        }
        if self.bytes + bytes > REPORT_BYTES {
            self.send();
        }
        self.bytes += bytes;
        self.events.push(event);
        true
    }

    /// Sends what has been collected.
    pub(in crate::engine) fn send(&mut self) {
        self.bytes = 0;
        if self.events.is_empty() {
            return;
        }
        let report = Report::Events(std::mem::take(&mut self.events));
        self.reports.report(&report);
        if let Report::Events(mut events) = report {
            events.clear();
            self.events = events;
        }
    }

    /// Sends a report that is not about a stream.
    pub(in crate::engine) fn report(&mut self, report: &Report) {
        self.send();
        self.reports.report(report);
    }
}

/// A failure inside the worker.
pub(in crate::engine) fn failed(message: impl Into<String>) -> StreamEventKind {
    let mut message = message.into();
    if message.len() > MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES));
        message.push('…');
    }
    StreamEventKind::Failed(Failure { kind: FailureKind::Internal, param: None, message })
}

/// An upper bound of its encoded bytes.
fn size(event: &StreamEvent) -> usize {
    64 + match &event.kind {
        StreamEventKind::Delta(delta) => {
            let logprobs: usize = delta.logprobs.iter().map(TokenLogprobs::approximate_bytes).sum();
            // Its variant, the call's number and its text's length.
            let parts: usize = delta.parts.iter().map(|part| 11 + part.bytes()).sum();
            delta.text.len() + 5 * delta.tokens.len() + parts + logprobs
        }
        StreamEventKind::Failed(failure) => {
            failure.message.len() + failure.param.as_ref().map_or(0, String::len)
        }
        StreamEventKind::Answered(Answer::Tokens(tokens)) => 5 * tokens.len(),
        StreamEventKind::Answered(Answer::Text(text)) => text.len(),
        StreamEventKind::Answered(Answer::Pieces(pieces)) => {
            pieces.iter().map(|(_, bytes)| 10 + bytes.len()).sum()
        }
        StreamEventKind::Answered(Answer::Embeddings(embeddings)) => {
            embeddings.iter().map(|(_, vector)| 5 + size_of_val(vector)).sum()
        }
        StreamEventKind::Answered(Answer::DraftCheck { reason, .. }) => {
            reason.as_ref().map_or(0, String::len)
        }
        StreamEventKind::Answered(Answer::Count(_))
        | StreamEventKind::Prepared { .. }
        | StreamEventKind::Started { .. }
        | StreamEventKind::Finished { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::{Mutex, PoisonError};

    use proptest::prelude::*;
    use protocol::{
        codec,
        ids::RequestId,
        message::{Delta, FinishReason, OutputPart, TokenLogprob, Usage},
    };

    use super::*;

    #[derive(Default)]
    struct Sent(Mutex<Vec<Report>>);

    impl ReportSink for Sent {
        fn report(&self, report: &Report) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(report.clone());
        }
    }

    fn chunk(id: u64, bytes: usize) -> StreamEvent {
        let likely = TokenLogprob { token: u32::MAX, logprob: -1.0, special: true, bytes: vec![0xff; 9] };
        let logprobs = vec![TokenLogprobs { chosen: likely.clone(), top: vec![likely; 3] }; 3];
        let tokens = vec![u32::MAX; 3].into();
        let parts = vec![OutputPart::CallStart { index: u32::MAX, name: "f".into() }; bytes % 3];
        let delta = Delta { first_token: 0, tokens, text: "x".repeat(bytes).into(), parts, logprobs };
        StreamEvent { id: RequestId(id), kind: StreamEventKind::Delta(delta) }
    }

    proptest! {
        #[test]
        fn every_event_is_sent_in_order_and_every_report_can_be_encoded(
            sizes in prop::collection::vec(prop_oneof![0..100_usize, 0..400_000_usize], 0..30),
        ) {
            let sent = Arc::new(Sent::default());
            let mut outbox = Outbox::new(Arc::clone(&sent) as _);
            let events: Vec<StreamEvent> = sizes.iter().zip(0..).map(|(&bytes, id)| chunk(id, bytes)).collect();
            for event in &events {
                prop_assert!(outbox.push(event.clone()));
            }
            outbox.send();
            let mut found = Vec::new();
            for report in sent.0.lock().unwrap().iter() {
                let Report::Events(events) = report else { panic!("{report:?}") };
                let mut bytes = Vec::new();
                codec::encode(report, &mut bytes).unwrap();
                prop_assert!(events.len() == 1 || bytes.len() <= REPORT_BYTES);
                prop_assert!(bytes.len() <= events.iter().map(size).sum::<usize>());
                found.extend(events.clone());
            }
            prop_assert_eq!(found, events);
        }
    }

    #[test]
    fn a_stream_with_too_large_a_piece_ends_with_a_failure() {
        let sent = Arc::new(Sent::default());
        let mut outbox = Outbox::new(Arc::clone(&sent) as _);
        assert!(!outbox.push(chunk(1, EVENT_BYTES)));
        let usage = Usage::default();
        let finished = StreamEventKind::Finished { reason: FinishReason::Stop, usage };
        assert!(outbox.push(StreamEvent { id: RequestId(2), kind: finished }));
        outbox.report(&Report::Drained);
        let sent = sent.0.lock().unwrap();
        let [Report::Events(events), Report::Drained] = &sent[..] else { panic!("{} reports", sent.len()) };
        assert!(matches!(events[0].kind, StreamEventKind::Failed(_)), "{:?}", events[0]);
        assert_eq!(events.len(), 2);
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let StreamEventKind::Failed(failure) = failed("é".repeat(MESSAGE_BYTES)) else {
            panic!("not a failure")
        };
        assert!(failure.message.len() <= MESSAGE_BYTES + 3 && failure.message.ends_with("é…"));
    }
}
