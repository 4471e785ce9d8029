//! Splits reports into parts that the gateway accepts: one that it refuses would end this worker, and every stream with it.
//!
//! Ordinary reports fit as they are. What can make one too large is a step with very many events, or one event with a
//! very long text. The first is split; the second is replaced by the failure of its own stream.

use std::collections::HashSet;

use protocol::{
    codec,
    ids::RequestId,
    message::{Failure, FailureKind, MAX_EVENTS, Report, StreamEvent, StreamEventKind},
};

/// What became of a report that did not fit.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Fitted {
    /// What to send, in this order.
    pub(super) reports: Vec<Report>,
    /// Streams that were ended because of an event that can't be sent: nothing more may be sent about them.
    pub(super) ended: Vec<RequestId>,
}

/// Most bytes of a report's variant and its number of events.
const HEAD: usize = 10;

/// Whether the report can be sent as far as its lists and texts go; its size is checked separately.
pub(super) fn is_within_limits(report: &Report) -> bool {
    match report {
        Report::Events(events) => {
            events.len() <= MAX_EVENTS && events.iter().all(StreamEvent::is_within_limits)
        }
        _ => true,
    }
}

/// Parts of `report` with at most `max` bytes each.
pub(super) fn fit(report: &Report, max: usize) -> Fitted {
    match report {
        Report::Events(events) => fit_events(events, max),
        Report::LoadFailed(failure) => whole(Report::LoadFailed(shortened(failure))),
        Report::Damaged(failure) => whole(Report::Damaged(shortened(failure))),
        other => whole(other.clone()),
    }
}

fn whole(report: Report) -> Fitted {
    Fitted { reports: vec![report], ended: Vec::new() }
}

fn shortened(failure: &Failure) -> Failure {
    let mut failure = failure.clone();
    failure.shorten();
    failure
}

fn fit_events(events: &[StreamEvent], max: usize) -> Fitted {
    let mut fitted = Fitted::default();
    let mut ended = HashSet::new();
    let (mut piece, mut bytes) = (Vec::new(), HEAD);
    for event in events {
        if ended.contains(&event.id) {
            continue;
        }
        let (event, size) = match sendable(event, max) {
            Some(sendable) => sendable,
            None => {
                ended.insert(event.id);
                fitted.ended.push(event.id);
                too_large(event.id)
            }
        };
        if !piece.is_empty() && (bytes + size > max || piece.len() == MAX_EVENTS) {
            fitted.reports.push(Report::Events(std::mem::take(&mut piece)));
            bytes = HEAD;
        }
        bytes += size;
        piece.push(event);
    }
    if !piece.is_empty() {
        fitted.reports.push(Report::Events(piece));
    }
    fitted
}

/// The event as it can be sent, and its size.
fn sendable(event: &StreamEvent, max: usize) -> Option<(StreamEvent, usize)> {
    let mut event = event.clone();
    if let StreamEventKind::Failed(failure) = &mut event.kind {
        failure.shorten();
    }
    let size = size(&event)?;
    (event.is_within_limits() && HEAD + size <= max).then_some((event, size))
}

fn too_large(id: RequestId) -> (StreamEvent, usize) {
    let message = "an output of this request was too large to be sent".into();
    let failure = Failure { kind: FailureKind::Internal, param: None, message };
    let event = StreamEvent { id, kind: StreamEventKind::Failed(failure) };
    let size = size(&event).unwrap_or_default();
    (event, size)
}

/// Encoded bytes; `None` if it can't be encoded.
fn size(event: &StreamEvent) -> Option<usize> {
    let mut bytes = Vec::new();
    codec::encode(event, &mut bytes).ok().map(|()| bytes.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::{collection::vec, prelude::*};
    use protocol::message::{Delta, FinishReason, MAX_DELTA_TOKENS, MAX_FAILURE_TEXT, Usage};

    use super::*;

    /// Enough for every failure that is made here, and little enough to be passed.
    const MAX: usize = 300;

    fn event(id: u64, kind: StreamEventKind) -> StreamEvent {
        StreamEvent { id: RequestId(id), kind }
    }

    fn chunk(text: usize, tokens: usize) -> StreamEventKind {
        StreamEventKind::Delta(Delta {
            first_token: 0,
            parts: Vec::new(),
            logprobs: Vec::new(),
            tokens: vec![7; tokens].into(),
            text: "x".repeat(text).into(),
        })
    }

    fn failed(message: usize) -> StreamEventKind {
        let message = "é".repeat(message / 2);
        StreamEventKind::Failed(Failure { kind: FailureKind::Internal, param: None, message })
    }

    fn kind() -> impl Strategy<Value = StreamEventKind> {
        prop_oneof![
            8 => (0..40usize, 0..3usize).prop_map(|(text, tokens)| chunk(text, tokens)),
            1 => (200..400usize).prop_map(|text| chunk(text, 1)),
            1 => Just(chunk(0, MAX_DELTA_TOKENS + 1)),
            1 => Just(StreamEventKind::Finished { reason: FinishReason::Stop, usage: Usage::default() }),
            1 => (0..MAX / 2).prop_map(failed),
        ]
    }

    fn events(report: &Report) -> &[StreamEvent] {
        match report {
            Report::Events(events) => events,
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        /// Every piece fits; what can be sent is sent, in order; any other event is the one failure of its stream, after
        /// which nothing is said about it.
        #[test]
        fn pieces_fit_and_nothing_is_lost_but_what_can_not_be_sent(said in vec((0..5u64, kind()), 0..60)) {
            let said: Vec<_> = said.into_iter().map(|(id, kind)| event(id, kind)).collect();
            let fitted = fit(&Report::Events(said.clone()), MAX);
            let mut bytes = Vec::new();
            for report in &fitted.reports {
                codec::encode(report, &mut bytes).unwrap();
                prop_assert!(bytes.len() <= MAX && is_within_limits(report), "{} bytes", bytes.len());
            }
            let sent: Vec<_> = fitted.reports.iter().flat_map(events).cloned().collect();
            let mut expected = Vec::new();
            let mut ended = Vec::new();
            for event in said {
                if ended.contains(&event.id) {
                    continue;
                }
                match sendable(&event, MAX) {
                    Some(_) => expected.push(event),
                    None => {
                        ended.push(event.id);
                        expected.push(too_large(event.id).0);
                    }
                }
            }
            prop_assert_eq!(sent, expected);
            prop_assert_eq!(fitted.ended, ended);
        }
    }

    #[test]
    fn very_many_events_are_split() {
        let many = Report::Events(vec![event(1, chunk(0, 0)); MAX_EVENTS + 3]);
        assert!(!is_within_limits(&many));
        let fitted = fit(&many, usize::MAX);
        let sizes: Vec<_> = fitted.reports.iter().map(|report| events(report).len()).collect();
        assert_eq!((sizes, fitted.ended), (vec![MAX_EVENTS, 3], vec![]));
    }

    #[test]
    fn a_long_failure_is_cut_and_stays_the_failure() {
        let long = Failure { kind: FailureKind::DamagedModel, param: None, message: "x".repeat(1 << 20) };
        let report = Report::Events(vec![event(1, StreamEventKind::Failed(long.clone()))]);
        assert!(!is_within_limits(&report));
        let fitted = fit(&report, 1 << 20);
        assert_eq!(fitted.ended, []);
        let cut = Failure { message: "x".repeat(MAX_FAILURE_TEXT), ..long.clone() };
        assert_eq!(fitted.reports, [Report::Events(vec![event(1, StreamEventKind::Failed(cut.clone()))])]);
        assert_eq!(
            fit(&Report::LoadFailed(long.clone()), 1 << 20).reports,
            [Report::LoadFailed(cut.clone())]
        );
        assert_eq!(fit(&Report::Damaged(long), 1 << 20).reports, [Report::Damaged(cut)]);
    }
}
