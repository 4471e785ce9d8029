//! Streams and their tokens. Pure: time comes in as an argument, and what happens goes out as events.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use protocol::{
    ids::RequestId,
    message::{
        Delta, Failure, FailureKind, FinishReason, Generate, Heartbeat, Prompt, StreamEvent, StreamEventKind,
        Submission, Usage,
    },
};

use crate::{answer, language};

/// Most tokens of prompt and output together.
pub(crate) const CONTEXT: u32 = 1 << 20;

/// Tokens that a worker says it has room for.
const KV_CAPACITY: u64 = 1 << 30;

/// All live streams. Like a model's, a step brings one token for each stream that has credit, and all of a step's tokens
/// travel in one report. A prompt costs nothing, so that a stream's first token comes at once.
#[derive(Debug)]
pub(crate) struct Engine {
    streams: BTreeMap<RequestId, Stream>,
    /// Between two steps; zero: none.
    interval: Duration,
    /// When the next step is due, if any stream can go on.
    next: Option<Instant>,
    steps: u64,
    draining: bool,
}

#[derive(Debug)]
struct Stream {
    seed: u64,
    prompt_tokens: u32,
    /// Tokens generated, those of other workers included.
    position: u32,
    /// Its length at the end.
    end: u32,
    credit: u32,
}

/// A stream's events.
struct Output<'a> {
    id: RequestId,
    events: &'a mut Vec<StreamEvent>,
}

impl Engine {
    /// Without streams; each will get `rate` tokens a second, or, if that is 0, as many as its reader takes.
    pub(crate) fn new(rate: u32) -> Self {
        let interval = if rate == 0 { Duration::ZERO } else { Duration::from_secs(1) / rate };
        Self { streams: BTreeMap::new(), interval, next: None, steps: 0, draining: false }
    }

    /// Takes a submission at `now`.
    pub(crate) fn submit(&mut self, submission: Submission, now: Instant, events: &mut Vec<StreamEvent>) {
        match submission {
            Submission::Generate(generate) => self.begin(&generate, events),
            Submission::Cancel(id) => drop(self.streams.remove(&id)),
            Submission::Credit { id, chunks } => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.credit = stream.credit.saturating_add(chunks);
                }
            }
            Submission::Operation(operation) => {
                let kind = match answer::answer(&operation.kind) {
                    Ok(answer) => StreamEventKind::Answered(answer),
                    Err(failure) => StreamEventKind::Failed(failure),
                };
                events.push(StreamEvent { id: operation.id, kind });
            }
            Submission::Drain => self.draining = true,
        }
        self.plan(now);
    }

    /// Does the next step, if it is due at `now`.
    pub(crate) fn step(&mut self, now: Instant, events: &mut Vec<StreamEvent>) {
        let Some(due) = self.next.filter(|due| *due <= now) else { return };
        self.steps += 1;
        self.streams.retain(|&id, stream| !stream.advance(&mut Output { id, events }));
        let next = due + self.interval;
        // After a late step the schedule starts again, so that it does not catch up with a burst of steps.
        self.next = Some(if next > now { next } else { now + self.interval });
        self.plan(now);
    }

    /// When the next step is due.
    pub(crate) fn next_step(&self) -> Option<Instant> {
        self.next
    }

    /// Whether everything that was submitted before a drain has ended.
    pub(crate) fn is_drained(&self) -> bool {
        self.draining && self.streams.is_empty()
    }

    /// What it does.
    pub(crate) fn heartbeat(&self) -> Heartbeat {
        let runnable = self.streams.values().filter(|stream| stream.credit > 0).count() as u32;
        Heartbeat {
            step: self.steps,
            runnable,
            paused: self.streams.len() as u32 - runnable,
            kv_tokens: self.streams.values().map(Stream::tokens).sum(),
            kv_capacity: KV_CAPACITY,
            ..Heartbeat::default()
        }
    }

    fn begin(&mut self, generate: &Generate, events: &mut Vec<StreamEvent>) {
        let mut output = Output { id: generate.id, events };
        let mut stream = match Stream::new(generate) {
            Ok(_) if self.streams.contains_key(&generate.id) => {
                let message = format!("{} was submitted twice", generate.id);
                return output.fail(FailureKind::Internal, message);
            }
            Ok(stream) => stream,
            Err(message) => return output.fail(FailureKind::ContextLengthExceeded, message),
        };
        output.push(StreamEventKind::Prepared { prompt_tokens: stream.prompt_tokens });
        if !stream.advance(&mut output) {
            self.streams.insert(generate.id, stream);
        }
    }

    /// A step is due in an interval if any stream can go on, and none was due before.
    fn plan(&mut self, now: Instant) {
        if self.streams.values().any(|stream| stream.credit > 0) {
            self.next.get_or_insert(now + self.interval);
        } else {
            self.next = None;
        }
    }
}

impl Stream {
    fn new(generate: &Generate) -> Result<Self, String> {
        let prompt_tokens = answer::count(&generate.prompt) as u32;
        let room = CONTEXT.checked_sub(prompt_tokens).filter(|room| *room > 0).ok_or_else(|| {
            format!("the prompt has {prompt_tokens} tokens, and the context {CONTEXT}; shorten it")
        })?;
        // What is greedy does not depend on a seed.
        let own = if generate.sampling.temperature == 0.0 { 0 } else { generate.sampling.seed };
        let seed = match &generate.prompt {
            Prompt::Text(text) => language::seed([text.as_bytes()], own),
            Prompt::Chat(messages) => language::seed(answer::parts(messages).map(str::as_bytes), own),
            Prompt::Tokens(tokens) => {
                let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
                language::seed([bytes.as_slice()], own)
            }
        };
        Ok(Self {
            seed,
            prompt_tokens,
            position: generate.resume.len() as u32,
            end: generate.max_tokens.unwrap_or(room).min(room),
            credit: generate.credit,
        })
    }

    /// Sends the next token if there is credit, and the end after the last one. True if it has ended.
    fn advance(&mut self, output: &mut Output<'_>) -> bool {
        if self.position < self.end && self.credit > 0 {
            let token = language::draw(self.seed, self.position);
            let text = language::word(token);
            output.push(StreamEventKind::Delta(Delta {
                first_token: self.position,
                tokens: [token].into_iter().collect(),
                text: text.into(),
                parts: Vec::new(),
                logprobs: Vec::new(),
            }));
            self.position += 1;
            self.credit -= 1;
        }
        let ended = self.position >= self.end;
        if ended {
            let usage = Usage {
                prompt_tokens: self.prompt_tokens,
                completion_tokens: self.position,
                ..Usage::default()
            };
            output.push(StreamEventKind::Finished { reason: FinishReason::Length, usage });
        }
        ended
    }

    fn tokens(&self) -> u64 {
        u64::from(self.prompt_tokens) + u64::from(self.position)
    }
}

impl Output<'_> {
    fn push(&mut self, kind: StreamEventKind) {
        self.events.push(StreamEvent { id: self.id, kind });
    }

    fn fail(&mut self, kind: FailureKind, message: String) {
        self.push(StreamEventKind::Failed(Failure { kind, param: None, message }));
    }
}

#[cfg(test)]
mod tests;
