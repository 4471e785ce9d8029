//! A worker that generates by itself.

use std::collections::BTreeMap;

use protocol::{
    ids::RequestId,
    message::{Delta, FinishReason, Report, StreamEvent, StreamEventKind, Submission, Usage},
};

use super::FakeWorker;

/// Generates for every request as many tokens as it allows, one in each step, as far as its credit goes.
pub struct Generator {
    worker: FakeWorker,
    /// The text of a token.
    text: String,
    sequences: BTreeMap<RequestId, Sequence>,
    /// Requests that were cancelled while they ran.
    pub cancelled: usize,
}

#[derive(Debug)]
struct Sequence {
    credit: u32,
    sent: u32,
    /// How many tokens it has in the end.
    length: u32,
}

impl Generator {
    /// Plays `worker`. Every token's text is `text`.
    pub fn new(worker: FakeWorker, text: &str) -> Self {
        Self { worker, text: text.into(), sequences: BTreeMap::new(), cancelled: 0 }
    }

    /// The worker that it plays.
    pub fn into_worker(self) -> FakeWorker {
        self.worker
    }

    /// Requests that have not ended.
    pub fn live(&self) -> usize {
        self.sequences.len()
    }

    /// Requests that can't go on without credit.
    pub fn paused(&self) -> usize {
        self.sequences.values().filter(|it| it.credit == 0).count()
    }

    /// Whether this request can't go on without credit.
    pub fn is_paused(&self, id: RequestId) -> bool {
        self.sequences.get(&id).is_some_and(|it| it.credit == 0)
    }

    /// Ids of the requests that have not ended, in the order of their arrival.
    pub fn ids(&self) -> Vec<RequestId> {
        self.sequences.keys().copied().collect()
    }

    /// Handles what has arrived, and reports new requests as prepared.
    ///
    /// # Panics
    /// The gateway breaks the protocol.
    pub async fn receive(&mut self) {
        let mut events = Vec::new();
        for submission in self.worker.arrived().await {
            if let Submission::Generate(generate) = &submission {
                let kind = StreamEventKind::Prepared { prompt_tokens: 3 };
                events.push(StreamEvent { id: generate.id, kind });
            }
            self.handle(submission);
        }
        self.report(events).await;
    }

    /// The same, and then one step: a token for each request that has credit, and the end of those that are complete.
    /// Returns the number of tokens.
    ///
    /// # Panics
    /// The gateway breaks the protocol.
    pub async fn step(&mut self) -> usize {
        self.receive().await;
        let mut events = Vec::new();
        let mut tokens = 0;
        for (&id, sequence) in self.sequences.iter_mut().filter(|(_, it)| it.credit > 0) {
            let text = self.text.as_str().into();
            let delta =
                Delta { first_token: sequence.sent, tokens: vec![7].into(), text, ..Delta::default() };
            events.push(StreamEvent { id, kind: StreamEventKind::Delta(delta) });
            sequence.credit -= 1;
            sequence.sent += 1;
            tokens += 1;
            if sequence.sent == sequence.length {
                let usage = Usage { prompt_tokens: 3, completion_tokens: sequence.sent, ..Usage::default() };
                let kind = StreamEventKind::Finished { reason: FinishReason::Length, usage };
                events.push(StreamEvent { id, kind });
            }
        }
        self.sequences.retain(|_, sequence| sequence.sent < sequence.length);
        self.report(events).await;
        tokens
    }

    async fn report(&mut self, events: Vec<StreamEvent>) {
        if !events.is_empty() {
            self.worker.send(&Report::Events(events)).await;
        }
    }

    fn handle(&mut self, submission: Submission) {
        match submission {
            Submission::Generate(generate) => {
                let length = generate.max_tokens.unwrap_or(16).max(1);
                let sequence = Sequence { credit: generate.credit, sent: 0, length };
                let before = self.sequences.insert(generate.id, sequence);
                assert!(before.is_none(), "{:?} was submitted twice", generate.id);
            }
            Submission::Cancel(id) => self.cancelled += usize::from(self.sequences.remove(&id).is_some()),
            Submission::Credit { id, chunks } => {
                if let Some(sequence) = self.sequences.get_mut(&id) {
                    sequence.credit += chunks;
                }
            }
            other => panic!("a generator knows no {other:?}"),
        }
    }
}
