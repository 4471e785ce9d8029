//! The engine over a model of which a test says what it does, turn by turn on the test's own thread.

#![allow(clippy::unwrap_used)]

mod ahead;
mod channels;
mod constraints;
mod disk;
mod drafts;
mod ends;
mod failures;
mod logprobs;
mod prefixes;
mod random;
mod resume;
mod speculation;
mod steps;
mod time;

use std::sync::{LazyLock, Mutex};

use crossbeam_channel::{Sender, unbounded};
use protocol::{
    ids::RequestId,
    message::{Sampling, Submission},
};
use serde_json::json;
use tokenizers::Tokenizer;

use super::{emit::Emitter, *};
use crate::{
    request_trace::SequenceSpans,
    requests::RequestHandle,
    sample::Sampler,
    speculate::Costs,
    testing::{Collected, FakeModel, Stream},
};

const LIMITS: Limits = Limits {
    max_held_seqs: usize::MAX,
    max_num_seqs: 8,
    chunk_tokens: 4,
    max_num_batched_tokens: 12,
    kv_tokens: 200,
    unit_tokens: 1,
    keep_prefixes: false,
    max_draft_tokens: 0,
    windows: None,
};

/// Token ids, and the number of logits.
const VOCAB: u32 = 26;

/// A request.
#[derive(Clone, Debug)]
struct Ask {
    prompt: Vec<u32>,
    max_tokens: usize,
    credit: u32,
    stop: Vec<String>,
    eos: Vec<u32>,
    sampling: Sampling,
}

/// An engine, and both ends of what connects it to the rest of a worker.
struct World {
    engine: Engine<FakeModel>,
    messages: Sender<EngineMessage>,
    requests: Arc<RequestTable>,
    reports: Arc<Collected>,
    steps: Arc<Mutex<Vec<Vec<usize>>>>,
    tokenizer: Arc<Tokenizer>,
}

impl Default for Ask {
    fn default() -> Self {
        Self {
            prompt: vec![0],
            max_tokens: 5,
            credit: 1000,
            stop: Vec::new(),
            eos: Vec::new(),
            sampling: Sampling::default(),
        }
    }
}

impl World {
    fn new(model: FakeModel) -> Self {
        Self::with_limits(model, LIMITS)
    }

    fn with_limits(model: FakeModel, limits: Limits) -> Self {
        let (messages, received) = unbounded();
        let (requests, reports) = (Arc::new(RequestTable::default()), Arc::new(Collected::default()));
        let steps = model.steps();
        let sink = Arc::clone(&reports) as _;
        let engine = Engine::new(model, limits, received, Arc::clone(&requests), sink, Arc::default());
        Self { engine, messages, requests, reports, steps, tokenizer: Arc::clone(&LETTERS) }
    }

    /// The same, with a draft model that has this memory; a guess of it costs next to nothing.
    fn drafted_by(mut self, draft: FakeModel, kv_tokens: usize) -> Self {
        let size =
            DraftSize { kv_tokens, context_length: 1000, vocab_size: draft.vocab().min(VOCAB) as usize };
        let draft = DraftModel::new(draft, size, self.engine.limits, Costs::fixed(0.05));
        self.engine = self.engine.with_draft_model(draft);
        self
    }

    /// What the draft model holds of sequences, in tokens of each.
    fn drafted(&self) -> Vec<usize> {
        self.engine.slots.values().map(|slot| slot.drafting.held()).filter(|held| *held > 0).collect()
    }

    fn ask(&self, id: u64, ask: Ask) -> Arc<RequestHandle> {
        self.ask_resumed(id, ask, &[]).unwrap()
    }

    /// A request of which another worker has generated some tokens.
    fn ask_resumed(&self, id: u64, ask: Ask, generated: &[u32]) -> Result<Arc<RequestHandle>, ResumeError> {
        let id = RequestId(id);
        let request = self.requests.begin(id, ask.credit).unwrap();
        let mut sequence = Sequence {
            id,
            arrived_micros: 0,
            request: Arc::clone(&request),
            adapter: None,
            prompt_len: ask.prompt.len(),
            max_len: ask.prompt.len() + ask.max_tokens,
            eos_tokens: EosTokens::new(ask.eos),
            sampler: Sampler::new(ask.sampling, &ask.prompt),
            constraint: None,
            emitter: Emitter::new(Arc::clone(&self.tokenizer), &ask.stop),
            tokens: ask.prompt,
            ended: None,
            spans: SequenceSpans::default(),
        };
        sequence.resume(generated)?;
        self.messages.send(EngineMessage::Sequence(Box::new(sequence))).unwrap();
        Ok(request)
    }

    fn cancel(&self, id: u64) {
        self.requests.apply(&Submission::Cancel(RequestId(id)));
        self.messages.send(EngineMessage::Wake).unwrap();
    }

    fn credit(&self, id: u64, chunks: u32) {
        self.requests.apply(&Submission::Credit { id: RequestId(id), chunks });
        self.messages.send(EngineMessage::Wake).unwrap();
    }

    fn turn(&mut self) -> Turn {
        self.engine.turn().unwrap()
    }

    /// Runs until nothing can go on.
    fn settle(&mut self) -> Turn {
        loop {
            match self.turn() {
                Turn::Stepped => {}
                end => return end,
            }
        }
    }

    /// No request, sequence, place or memory is left.
    fn assert_empty(&self) {
        assert!(self.requests.is_empty() && self.engine.slots.is_empty());
        assert!(self.engine.flight.is_none());
        let scheduler = &self.engine.scheduler;
        let left = [scheduler.runnable(), scheduler.paused(), scheduler.waiting(), scheduler.held_tokens()];
        assert_eq!(left, [0; 4]);
        assert_eq!(self.engine.kept.used_tokens(), 0, "what is kept is in nobody's way");
    }

    fn stream(&self, id: u64) -> Stream {
        self.reports.stream(RequestId(id))
    }

    /// Of each step so far the number of tokens of each row.
    fn steps(&self) -> Vec<Vec<usize>> {
        self.steps.lock().unwrap().clone()
    }
}

/// A letter for each token.
static LETTERS: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(tokenizer(String::from)));

/// A letter for each token, or another text; the decoder joins them.
fn tokenizer(text: impl Fn(char) -> String) -> Tokenizer {
    let vocab: serde_json::Map<_, _> =
        ('a'..='z').zip(0..VOCAB).map(|(letter, id)| (text(letter), id.into())).collect();
    let file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []}});
    Tokenizer::from_bytes(file.to_string()).unwrap()
}

/// Each letter follows the one before it in the alphabet.
fn alphabet() -> FakeModel {
    FakeModel::next(VOCAB, |tokens| (tokens[tokens.len() - 1] + 1) % VOCAB)
}
