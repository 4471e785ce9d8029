//! The engine over a model that fails: who is hurt, and who is not.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use crossbeam_channel::unbounded;
use protocol::{
    ids::RequestId,
    message::{FinishReason, Report, Sampling, StreamEventKind},
};
use tokenizers::Tokenizer;
use worker::{
    engine::{Broken, Engine, EngineMessage, EngineStats, EosTokens, Forward, Sequence, emit::Emitter},
    model::{Logits, ModelError, Progress, SequenceKv, StepInput},
    report_sink::ReportSink,
    request_trace::SequenceSpans,
    requests::RequestTable,
    sample::Sampler,
    schedule::Limits,
};

use super::{
    Loaded, load,
    on::{On, on_every_backend},
    tiny::{Float, Spec, Tiny, tokenizer},
};

/// In no prompt but those that the model fails on.
const POISON: u32 = 100;
const LIMITS: Limits = Limits {
    max_num_seqs: 8,
    chunk_tokens: 16,
    max_num_batched_tokens: 64,
    kv_tokens: 1000,
    keep_prefixes: false,
};

/// A real model that fails where a test wants it to.
struct Flaky {
    loaded: Loaded,
    fails: Box<dyn Fn(&StepInput<'_>) -> bool>,
    stats: Arc<EngineStats>,
    calls: Cell<u32>,
}

impl Forward for Flaky {
    type Kv = SequenceKv;

    fn is_intact(&self, kv: &SequenceKv) -> bool {
        kv.is_intact()
    }

    fn new_kv(&self) -> SequenceKv {
        self.loaded.model.new_kv()
    }

    fn shared_block(&self) -> Option<usize> {
        self.loaded.model.shared_block()
    }

    fn progress(&self) -> Option<Progress> {
        self.loaded.model.progress()
    }

    fn forward(&self, input: &mut StepInput<'_>) -> Result<Option<Logits>, ModelError> {
        self.calls.set(self.calls.get() + 1);
        let probing = input.rows.iter().all(|row| row.tokens == [0]);
        assert!(probing || self.stats.heartbeat().runnable > 0, "a step must be seen while it runs");
        if (self.fails)(input) {
            return Err(ModelError::Mlx(mlx_rs::error::Exception::custom("injected")));
        }
        self.loaded.model.forward(input)
    }
}

/// Of each stream its tokens and its end.
type Outcome = BTreeMap<u64, Stream>;
type Stream = (Vec<u32>, Option<StreamEventKind>);

/// Collects what is reported.
#[derive(Default)]
struct Streams(Mutex<Outcome>);

impl ReportSink for Streams {
    fn report(&self, report: &Report) {
        let Report::Events(events) = report else { return };
        let mut streams = self.0.lock().unwrap();
        for event in events {
            let stream = streams.entry(event.id.0).or_default();
            assert!(stream.1.is_none(), "{event:?} after the end");
            match &event.kind {
                StreamEventKind::Delta(chunk) => stream.0.extend(&chunk.tokens),
                end => stream.1 = Some(end.clone()),
            }
        }
    }
}

/// Serves the prompts, eight tokens each, until all have ended.
fn serve(
    on: On,
    prompts: &[&[u32]],
    fails: impl Fn(&StepInput<'_>) -> bool + 'static,
) -> (Result<(), Broken>, Outcome) {
    let stats = Arc::new(EngineStats::default());
    let loaded = load(&Tiny::new(on.spec(Spec::default()), 21), on);
    let model = Flaky { loaded, fails: Box::new(fails), stats: Arc::clone(&stats), calls: Cell::new(0) };
    let (requests, streams) = (Arc::new(RequestTable::default()), Arc::new(Streams::default()));
    let tokenizer = Arc::new(Tokenizer::from_bytes(tokenizer(101).to_string()).unwrap());
    let (sender, messages) = unbounded();
    for (&prompt, id) in prompts.iter().zip(0..) {
        let id = RequestId(id);
        let sequence = Sequence {
            id,
            arrived_micros: 0,
            request: requests.begin(id, 100).unwrap(),
            tokens: prompt.to_vec(),
            prompt_len: prompt.len(),
            max_len: prompt.len() + 8,
            eos_tokens: EosTokens::default(),
            sampler: Sampler::new(Sampling::default(), prompt),
            emitter: Emitter::new(Arc::clone(&tokenizer), &[]),
            ended: None,
            spans: SequenceSpans::default(),
        };
        sender.send(EngineMessage::Sequence(Box::new(sequence))).unwrap();
    }
    sender.send(EngineMessage::Drain).unwrap();
    let engine = Engine::new(model, LIMITS, messages, requests, Arc::clone(&streams) as _, stats);
    let result = engine.run();
    drop(sender);
    let outcome = std::mem::take(&mut *streams.0.lock().unwrap());
    (result, outcome)
}

fn finished(stream: &Stream) -> bool {
    matches!(stream.1, Some(StreamEventKind::Finished { reason: FinishReason::Length, .. }))
        && stream.0.len() == 8
}

fn failed(stream: &Stream, message: &str) -> bool {
    matches!(&stream.1, Some(StreamEventKind::Failed(failure)) if failure.message.contains(message))
}

const LONG: [u32; 40] = [7; 40];

/// Both end as they should, and with the same tokens, where a batch's size can't turn the choice between two of them: in
/// float32.
#[track_caller]
fn alike(on: On, found: [&Stream; 2], expected: [&Stream; 2]) {
    assert!(found.into_iter().chain(expected).all(finished), "{found:?}");
    if on.float.is_none_or(|float| float == Float::F32) {
        assert_eq!(found, expected, "{on:?}");
    }
}

fn a_token_that_the_model_does_not_have_ends_its_own_stream(on: On) {
    let (result, alone) = serve(on, &[&[1, 2, 3], &LONG], |_| false);
    assert!(result.is_ok() && alone.values().all(finished), "{alone:?}");
    let (result, beside) = serve(on, &[&[1, 2, 3], &LONG, &[5, 101], &[4_000_000_000]], |_| false);
    assert!(result.is_ok());
    alike(on, [&beside[&0], &beside[&1]], [&alone[&0], &alone[&1]]);
    for id in [2, 3] {
        assert!(failed(&beside[&id], "vocabulary has 101"), "{:?}", beside[&id]);
    }
}

fn a_row_on_which_the_model_fails_ends_its_own_stream(on: On) {
    let poisoned = |input: &StepInput<'_>| input.rows.iter().any(|row| row.tokens.contains(&POISON));
    let (_, alone) = serve(on, &[&[1, 2, 3], &LONG], |_| false);
    let mut prompt = LONG;
    prompt[30] = POISON;
    let (result, beside) = serve(on, &[&[1, 2, 3], &LONG, &[9, POISON], &prompt], poisoned);
    assert!(result.is_ok());
    alike(on, [&beside[&0], &beside[&1]], [&alone[&0], &alone[&1]]);
    for id in [2, 3] {
        assert!(failed(&beside[&id], "injected"), "{:?}", beside[&id]);
    }
}

fn a_step_that_fails_only_as_a_whole_costs_nobody_anything(on: On) {
    let (_, alone) = serve(on, &[&[1, 2, 3], &LONG], |_| false);
    let (result, together) = serve(on, &[&[1, 2, 3], &LONG], |input| input.rows.len() > 1);
    assert!(result.is_ok());
    alike(on, [&together[&0], &together[&1]], [&alone[&0], &alone[&1]]);
}

/// Many requests that fail one after the other are no sign of a broken device; a device that computes nothing is.
fn the_engine_ends_only_if_nothing_can_be_computed(on: On) {
    let prompts = [[9, POISON]; 60];
    let prompts: Vec<&[u32]> = prompts.iter().map(|prompt| &prompt[..]).collect();
    let (result, outcome) =
        serve(on, &prompts, |input| input.rows.iter().any(|row| row.tokens.contains(&POISON)));
    assert!(result.is_ok() && outcome.values().all(|stream| failed(stream, "injected")));

    let prompts = [[1; 60]; 60];
    let prompts: Vec<&[u32]> = prompts.iter().map(|prompt| &prompt[..]).collect();
    let (result, outcome) = serve(on, &prompts, |_| true);
    assert!(result.is_err());
    assert!(outcome.len() < prompts.len(), "the rest is for another process");
}

on_every_backend![
    a_token_that_the_model_does_not_have_ends_its_own_stream,
    a_row_on_which_the_model_fails_ends_its_own_stream,
    a_step_that_fails_only_as_a_whole_costs_nobody_anything,
    the_engine_ends_only_if_nothing_can_be_computed,
];
