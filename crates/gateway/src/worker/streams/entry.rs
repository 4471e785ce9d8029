//! The worker's end of a stream: what it may send, and what is measured of it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use protocol::message::{Delta, Failure, FailureKind, StreamEventKind};
use tokio::sync::mpsc;

use super::{Delivery, Flow, Progress, size};
use crate::{
    trace::{RequestSpan, StageSpan},
    worker::{load::Share, metrics::StreamMetrics},
};

/// The worker's end of a stream.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) sender: mpsc::Sender<Delivery>,
    /// Events of the step that is being delivered.
    pub(super) step: Vec<StreamEventKind>,
    pub(super) flow: Arc<Flow>,
    /// Its part of the work before the worker.
    pub(super) share: Share,
    /// Deltas that the worker has sent.
    pub(super) spent: u64,
    /// Position in the output of the next token.
    pub(super) next_token: u32,
    pub(super) progress: Progress,
    pub(super) request: RequestSpan,
    /// In its trace, once something has come.
    pub(super) delivering: Option<StageSpan>,
}

/// Most bytes of chunks that wait for one reader. The credit bounds their number, and honest chunks are small; a text
/// that was held back because a stop string might begin in it comes at once, and fits.
pub(super) const MAX_UNREAD: usize = 4 << 20;

impl Entry {
    pub(super) fn end(self, delivery: Delivery) {
        // It fails if the client has gone, or if the channel is full, which the sum at its creation rules out.
        let _ = self.sender.try_send(delivery);
    }

    /// Adds an event to the step's. False if the worker must not send it; the stream then ends with a failure that
    /// says so.
    pub(super) fn accept(
        &mut self,
        mut event: StreamEventKind,
        now: Instant,
        metrics: &StreamMetrics,
    ) -> bool {
        if self.step.last().is_some_and(StreamEventKind::is_terminal) {
            return true; // Nothing may follow, and the stream has its end: drop it.
        }
        let request = &mut self.request;
        self.delivering.get_or_insert_with(|| std::mem::take(request).deliver());
        match &mut event {
            StreamEventKind::Prepared { prompt_tokens } => {
                self.share.prepared(*prompt_tokens);
                if !std::mem::replace(&mut self.progress.prepared, true) {
                    metrics.tokens_in.inc_by((*prompt_tokens).into());
                }
            }
            StreamEventKind::Delta(delta) => {
                if let Err(violation) = self.check(delta) {
                    return self.violated(violation);
                }
                self.share.generated(delta.tokens.len());
                self.measure(delta.tokens.len(), now, metrics);
            }
            StreamEventKind::Failed(failure) => failure.shorten(),
            StreamEventKind::Answered(_) => {
                return self.violated("the worker answered a request for text with a value");
            }
            StreamEventKind::Finished { usage, .. } => self.share.finished(usage.completion_tokens),
        }
        self.step.push(event);
        true
    }

    fn violated(&mut self, violation: &str) -> bool {
        self.step.push(StreamEventKind::Failed(Failure {
            kind: FailureKind::Internal,
            param: None,
            message: violation.into(),
        }));
        false
    }

    /// Counts a delta, and says why the worker must not send it.
    fn check(&mut self, delta: &Delta) -> Result<(), &'static str> {
        self.spent += 1;
        let bytes = size(delta);
        let unread = self.flow.unread.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.spent > self.flow.granted.load(Ordering::Acquire) || unread > MAX_UNREAD {
            return Err("the worker sent more than the client had asked for");
        }
        let tokens = delta.token_range();
        if tokens.start != self.next_token {
            return Err("the worker left out a part of the output");
        }
        self.next_token = tokens.end;
        Ok(())
    }

    fn measure(&mut self, tokens: usize, now: Instant, metrics: &StreamMetrics) {
        if tokens == 0 {
            return;
        }
        metrics.tokens_out.inc_by(tokens as u64);
        match self.progress.last_tokens.replace(now) {
            None => metrics.time_to_first_token.observe((now - self.progress.arrived).as_secs_f64()),
            // Several tokens in one chunk came one by one in the worker: each gets its share.
            Some(last) => {
                let each = now.saturating_duration_since(last).as_secs_f64() / tokens as f64;
                (0..tokens).for_each(|_| metrics.inter_token_latency.observe(each));
            }
        }
    }
}
