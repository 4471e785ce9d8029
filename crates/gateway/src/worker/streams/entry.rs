//! The worker's end of a stream: what it may send, and what is measured of it.

use std::{
    sync::{Arc, atomic::Ordering},
    task::Waker,
    time::Instant,
};

use protocol::message::{Delta, StreamEventKind};

use super::{Flow, Progress, StreamItem, size};
use crate::{
    trace::{RequestSpan, StageSpan},
    worker::{load::Share, mailbox::Mailbox, metrics::StreamMetrics},
};

/// The worker's end of a stream. Dropping it says that nothing more will come.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) mailbox: Arc<Mailbox<StreamItem>>,
    pub(super) flow: Arc<Flow>,
    /// Its part of the work before the worker.
    pub(super) share: Share,
    /// Deltas that the worker has sent.
    pub(super) spent: u64,
    /// Position in the output of the next token.
    pub(super) next_token: u32,
    pub(super) progress: Progress,
    pub(super) stage: Stage,
    pub(super) request: RequestSpan,
    /// In its trace, once something has come.
    pub(super) delivering: Option<StageSpan>,
}

/// How far the worker has come with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is on its way there, or being prepared.
    Sent,
    /// It waits until it takes part in a step.
    Waiting,
    /// It takes part in steps.
    Running,
}

/// Most bytes of chunks that wait for one reader. The credit bounds their number, and honest chunks are small; a text
/// that was held back because a stop string might begin in it comes at once, and fits.
pub(super) const MAX_UNREAD: usize = 4 << 20;

impl Entry {
    /// Looks at what the worker sent, and counts it. The error says why the worker must not send it.
    pub(super) fn accept(
        &mut self,
        event: &mut StreamEventKind,
        now: Instant,
        metrics: &StreamMetrics,
    ) -> Result<(), &'static str> {
        let request = &mut self.request;
        self.delivering.get_or_insert_with(|| std::mem::take(request).deliver());
        match event {
            StreamEventKind::Started { cached_tokens } => {
                self.stage = Stage::Running;
                self.flow.cached_tokens.store(*cached_tokens, Ordering::Relaxed);
            }
            StreamEventKind::Prepared { prompt_tokens } => {
                if self.stage != Stage::Sent {
                    return Err("the worker prepared a request twice");
                }
                self.stage = Stage::Waiting;
                self.share.prepared(*prompt_tokens);
                if !std::mem::replace(&mut self.progress.prepared, true) {
                    metrics.tokens_in.inc_by((*prompt_tokens).into());
                }
            }
            StreamEventKind::Delta(delta) => {
                self.check(delta)?;
                self.stage = Stage::Running;
                self.share.generated(delta.tokens.len());
                self.measure(delta.tokens.len(), now, metrics);
            }
            StreamEventKind::Failed(failure) => failure.shorten(),
            StreamEventKind::Answered(_) => {
                return Err("the worker answered a request for text with a value");
            }
            StreamEventKind::Finished { usage, .. } => {
                self.share.finished(usage.completion_tokens);
                metrics.prefix_cache_queries.inc_by(usage.prompt_tokens.into());
                metrics.prefix_cache_hits.inc_by(usage.cached_tokens.min(usage.prompt_tokens).into());
                metrics.draft_tokens.inc_by(usage.drafted_tokens.into());
                metrics.draft_tokens_accepted.inc_by(usage.accepted_tokens.min(usage.drafted_tokens).into());
            }
        }
        Ok(())
    }

    /// Whether the request may be the cause of what its worker does.
    pub(super) fn takes_part(&self) -> bool {
        self.stage != Stage::Waiting
    }

    /// Ends the stream with its last item.
    pub(super) fn end(self, item: StreamItem) {
        self.mailbox.put(item).reader.into_iter().for_each(Waker::wake);
    }

    /// Counts a delta, and says why the worker must not send it.
    fn check(&mut self, delta: &Delta) -> Result<(), &'static str> {
        self.spent += 1;
        let bytes = size(delta);
        let unread = self.flow.unread.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.spent > self.flow.granted.load(Ordering::Acquire) || unread > MAX_UNREAD {
            return Err("the worker sent more than the client had asked for");
        }
        if !delta.logprobs.is_empty() && delta.logprobs.len() != delta.tokens.len() {
            return Err("the worker said of some tokens how likely they were, and not of others");
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

impl Drop for Entry {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}
