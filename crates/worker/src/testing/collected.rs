//! What was reported, and what clients see of it.

use std::{collections::BTreeMap, sync::Mutex};

use protocol::{
    ids::RequestId,
    message::{Delta, FinishReason, OutputPart, Report, StreamEvent, StreamEventKind, TokenLogprobs},
};

use super::lock;
use crate::report_sink::ReportSink;

/// Keeps what is reported.
#[derive(Debug, Default)]
pub(crate) struct Collected(Mutex<Vec<Report>>);

/// What a client has seen of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Stream {
    pub(crate) text: String,
    pub(crate) parts: Vec<OutputPart>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) logprobs: Vec<TokenLogprobs>,
    /// Position of its first token in the output: not 0 if it was resumed.
    pub(crate) first_token: Option<u32>,
    pub(crate) chunks: usize,
    /// `Finished` or `Failed`.
    pub(crate) end: Option<StreamEventKind>,
}

impl Collected {
    /// The reports so far.
    pub(crate) fn reports(&self) -> Vec<Report> {
        lock(&self.0).clone()
    }

    /// All events so far, in order.
    pub(crate) fn events(&self) -> Vec<StreamEvent> {
        let reports = self.reports().into_iter();
        reports.flat_map(|report| if let Report::Events(events) = report { events } else { vec![] }).collect()
    }

    /// What each client has seen. Fails the test on anything behind a terminal event.
    pub(crate) fn streams(&self) -> BTreeMap<u64, Stream> {
        let mut streams = BTreeMap::<u64, Stream>::new();
        for event in self.events() {
            streams.entry(event.id.0).or_default().push(event.kind);
        }
        streams
    }

    /// What one client has seen.
    pub(crate) fn stream(&self, id: RequestId) -> Stream {
        self.streams().remove(&id.0).unwrap_or_default()
    }
}

impl ReportSink for Collected {
    fn report(&self, report: &Report) {
        lock(&self.0).push(report.clone());
    }
}

impl Stream {
    pub(crate) fn push(&mut self, kind: StreamEventKind) {
        assert_eq!(self.end, None, "before {kind:?}");
        match kind {
            StreamEventKind::Delta(Delta { first_token, tokens, text, parts, logprobs }) => {
                let first = *self.first_token.get_or_insert(first_token);
                assert_eq!(first_token as usize, first as usize + self.tokens.len(), "a gap before {text:?}");
                self.text += &text;
                self.parts.extend(parts);
                self.tokens.extend(tokens);
                self.logprobs.extend(logprobs);
                self.chunks += 1;
            }
            StreamEventKind::Prepared { .. } => {
                assert_eq!((self.chunks, self.text.as_str()), (0, ""), "prepared after output");
            }
            StreamEventKind::Started { .. } => assert_eq!(self.chunks, 0, "started after output"),
            end => self.end = Some(end),
        }
    }

    /// The same, as if nothing had been kept of earlier requests.
    pub(crate) fn uncached(mut self) -> Self {
        if let Some(StreamEventKind::Finished { usage, .. }) = &mut self.end {
            usage.cached_tokens = 0;
        }
        self
    }

    /// The same, as if nothing had been kept or guessed, and its tokens had come in so many chunks.
    pub(crate) fn like_alone(mut self, chunks: usize) -> Self {
        if let Some(StreamEventKind::Finished { usage, .. }) = &mut self.end {
            (usage.drafted_tokens, usage.accepted_tokens) = (0, 0);
        }
        self.chunks = chunks;
        self.uncached()
    }

    /// Why it ended by itself; `None` if it did not.
    pub(crate) fn reason(&self) -> Option<FinishReason> {
        match self.end {
            Some(StreamEventKind::Finished { reason, .. }) => Some(reason),
            _ => None,
        }
    }

    /// The message with which it failed; empty if it did not.
    pub(crate) fn failure(&self) -> &str {
        match &self.end {
            Some(StreamEventKind::Failed(failure)) => &failure.message,
            _ => "",
        }
    }
}
