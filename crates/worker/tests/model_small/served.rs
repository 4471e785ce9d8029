//! The engine over a real model, which serves some prompts.

use std::{
    cell::Cell,
    collections::BTreeMap,
    ops::Range,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use crossbeam_channel::{Sender, unbounded};
use protocol::{
    ids::RequestId,
    message::{FinishReason, Report, Sampling, StreamEventKind},
};
use tokenizers::Tokenizer;
use worker::{
    engine::{Broken, Engine, EngineMessage, EngineStats, EosTokens, Forward, Sequence, emit::Emitter},
    model::{
        Adapter, Before, Landed, LaunchInput, Launched, Logits, ModelError, Progress, SequenceKv, StepInput,
    },
    prefix_store::{PrefixStore, PrefixStoreConfig},
    report_sink::ReportSink,
    request_trace::SequenceSpans,
    requests::RequestTable,
    sample::{Choice, Sampler},
    schedule::Limits,
};

use super::{
    Loaded,
    drafts::draft_model,
    load,
    on::On,
    tiny::{Spec, Tiny, tokenizer},
};

pub(crate) const LIMITS: Limits = Limits {
    max_held_seqs: usize::MAX,
    max_num_seqs: 8,
    chunk_tokens: 16,
    max_num_batched_tokens: 64,
    kv_tokens: 1000,
    unit_tokens: 1,
    keep_prefixes: false,
    max_draft_tokens: 0,
    windows: None,
};

/// A real model that fails where a test wants it to.
pub(crate) struct Flaky {
    loaded: Loaded,
    fails: Box<dyn Fn(&StepInput<'_>) -> bool>,
    pub(crate) stats: Arc<EngineStats>,
    calls: Cell<u32>,
    launching: Launching,
    launched: Arc<AtomicU32>,
}

/// Which steps [`Flaky`] launches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Launching {
    Never,
    /// Those that its model launches. A step fails at once, if it does.
    Allowed,
    /// The same, but one that is launched fails when it is read.
    FailsLate,
}

impl Flaky {
    /// Serves `loaded` in an engine that counts in `stats`. A step fails if `fails`, which is asked before each.
    pub(crate) fn new(
        loaded: Loaded,
        stats: Arc<EngineStats>,
        fails: impl Fn(&StepInput<'_>) -> bool + 'static,
    ) -> Self {
        let launching = Launching::Allowed;
        Self {
            loaded,
            fails: Box::new(fails),
            stats,
            calls: Cell::new(0),
            launching,
            launched: Arc::default(),
        }
    }

    pub(crate) fn launching(self, launching: Launching) -> Self {
        Self { launching, ..self }
    }

    /// Counts the steps that are launched.
    pub(crate) fn launched(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.launched)
    }

    /// Called before each step.
    fn fails(&self, input: &StepInput<'_>) -> bool {
        self.calls.set(self.calls.get() + 1);
        let probing = input.rows.iter().all(|row| row.tokens == [0]);
        assert!(probing || self.stats.heartbeat().runnable > 0, "a step must be seen while it runs");
        (self.fails)(input)
    }
}

impl Forward for Flaky {
    type Kv = SequenceKv;
    /// And whether it is to fail.
    type Launched = (Launched, bool);

    fn new_kv(&self) -> SequenceKv {
        self.loaded.model.new_kv()
    }

    fn shared_block(&self) -> usize {
        self.loaded.model.shared_block()
    }

    fn export(&self, kv: &SequenceKv, tokens: Range<usize>) -> Result<Vec<u8>, ModelError> {
        kv.export(tokens)
    }

    fn import(&self, kv: &mut SequenceKv, tokens: usize, bytes: &[u8]) -> Result<(), ModelError> {
        kv.import(tokens, bytes)
    }

    fn checks_drafts(&self) -> bool {
        self.loaded.model.checks_drafts()
    }

    fn mark(&self, kv: &mut SequenceKv, len: usize) {
        kv.mark(len);
    }

    fn truncate(&self, kv: &mut SequenceKv, len: usize) {
        kv.truncate(len);
    }

    fn threads(&self) -> usize {
        self.loaded.model.threads()
    }

    fn progress(&self) -> Option<Progress> {
        self.loaded.model.progress()
    }

    fn forward(&self, input: &mut StepInput<'_>) -> Result<Option<Logits>, ModelError> {
        Ok(self.forward_choosing(input, &[])?.logits)
    }

    fn forward_choosing(
        &self,
        input: &mut StepInput<'_>,
        choices: &[Option<Choice>],
    ) -> Result<Landed, ModelError> {
        if self.fails(input) {
            return Err(injected());
        }
        self.loaded.model.forward_choosing(input, choices)
    }

    fn launches(&self) -> bool {
        self.launching != Launching::Never && self.loaded.model.launches()
    }

    fn launch(
        &self,
        input: &mut LaunchInput<'_, SequenceKv, Self::Launched>,
    ) -> Result<Self::Launched, ModelError> {
        let fails = self.fails(&input.step);
        if fails && self.launching != Launching::FailsLate {
            return Err(injected());
        }
        let step = StepInput { rows: std::mem::take(&mut input.step.rows) };
        let before = input.before.as_ref();
        let before = before.map(|it| Before { step: &it.step.0, chosen: it.chosen.clone() });
        let mut input = LaunchInput { step, choices: input.choices.clone(), before };
        let launched = self.loaded.model.launch(&mut input)?;
        self.launched.fetch_add(1, Ordering::Relaxed);
        Ok((launched, fails))
    }

    fn land(&self, launched: &Self::Launched) -> Result<Landed, ModelError> {
        let landed = self.loaded.model.land(&launched.0)?;
        if launched.1 { Err(injected()) } else { Ok(landed) }
    }

    fn abandon(&self, steps: usize) {
        self.loaded.model.abandon(steps);
    }
}

fn injected() -> ModelError {
    ModelError::Mlx(mlx_rs::error::Exception::custom("injected"))
}

/// Of each stream its tokens and its end.
pub(crate) type Outcome = BTreeMap<u64, Stream>;
pub(crate) type Stream = (Vec<u32>, Option<StreamEventKind>);

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
                StreamEventKind::Started { .. } => {}
                StreamEventKind::Delta(chunk) => stream.0.extend(&chunk.tokens),
                end => stream.1 = Some(end.clone()),
            }
        }
    }
}

/// Serves the prompts, eight tokens each, until all have ended.
pub(crate) fn serve(
    on: On,
    limits: Limits,
    prompts: &[&[u32]],
    fails: impl Fn(&StepInput<'_>) -> bool + 'static,
) -> (Result<(), Broken>, Outcome) {
    serve_with(tiny(on), limits, prompts, fails, Beside::default())
}

/// The same, by another model.
pub(crate) fn serve_by(
    loaded: Loaded,
    limits: Limits,
    prompts: &[&[u32]],
    fails: impl Fn(&StepInput<'_>) -> bool + 'static,
) -> (Result<(), Broken>, Outcome) {
    serve_with(loaded, limits, prompts, fails, Beside::default())
}

fn tiny(on: On) -> Loaded {
    load(&Tiny::new(on.spec(Spec::default()), 21), on)
}

/// The same, with drafts of another model.
pub(crate) fn serve_drafted(on: On, limits: Limits, prompts: &[&[u32]], draft: Loaded) -> Outcome {
    let beside = Beside { draft: Some(draft), ..Beside::default() };
    let (result, outcome) = serve_with(tiny(on), limits, prompts, |_| false, beside);
    result.unwrap();
    outcome
}

/// The same, with prefixes that are kept in a folder, and were kept there before.
pub(crate) fn serve_from(on: On, limits: Limits, prompts: &[&[u32]], prefixes: &Path) -> Outcome {
    let beside = Beside { prefixes: Some(prefixes), ..Beside::default() };
    let (result, outcome) = serve_with(tiny(on), limits, prompts, |_| false, beside);
    result.unwrap();
    outcome
}

/// The same, by another model and with adapters of it: of each prompt one, or none at all. Also says how often a sequence had to
/// give up what was computed of it.
pub(crate) fn serve_adapted(
    loaded: Loaded,
    limits: Limits,
    prompts: &[&[u32]],
    adapters: &[Option<Arc<Adapter>>],
) -> (Outcome, u64) {
    let stats = Arc::new(EngineStats::default());
    let beside = Beside { adapters, stats: Arc::clone(&stats), ..Beside::default() };
    let (result, outcome) = serve_with(loaded, limits, prompts, |_| false, beside);
    result.unwrap();
    (outcome, stats.heartbeat().preemptions)
}

/// What a model is served with.
#[derive(Default)]
pub(crate) struct Beside<'a> {
    pub(crate) prefixes: Option<&'a Path>,
    pub(crate) draft: Option<Loaded>,
    pub(crate) adapters: &'a [Option<Arc<Adapter>>],
    pub(crate) stats: Arc<EngineStats>,
}

/// The same, with all of that.
pub(crate) fn serve_with(
    loaded: Loaded,
    limits: Limits,
    prompts: &[&[u32]],
    fails: impl Fn(&StepInput<'_>) -> bool + 'static,
    Beside { prefixes, draft, adapters, stats }: Beside<'_>,
) -> (Result<(), Broken>, Outcome) {
    let model = Flaky::new(loaded, Arc::clone(&stats), fails);
    let (requests, streams) = (Arc::new(RequestTable::default()), Arc::new(Streams::default()));
    let tokenizer = Arc::new(Tokenizer::from_bytes(tokenizer(101).to_string()).unwrap());
    let (sender, messages) = unbounded();
    for (&prompt, id) in prompts.iter().zip(0..) {
        let sequence = sequence(RequestId(id), &requests, prompt, 8, Sampling::default(), &tokenizer);
        let adapter = adapters.get(id as usize).cloned().flatten();
        let sequence = Sequence { adapter, ..sequence };
        sender.send(EngineMessage::Sequence(Box::new(sequence))).unwrap();
    }
    sender.send(EngineMessage::Drain).unwrap();
    let store = prefixes.map(|dir| prefix_store(&model.loaded, dir, sender.clone()));
    let sink = Arc::clone(&streams) as _;
    let mut engine = Engine::new(model, limits, messages, requests, sink, Arc::clone(&stats));
    if let Some(draft) = draft {
        engine = engine.with_draft_model(draft_model(draft, limits, &stats, |_| false));
    }
    if let Some(store) = store {
        engine = engine.with_prefix_store(store);
    }
    let result = engine.run();
    drop(sender);
    let outcome = std::mem::take(&mut *streams.0.lock().unwrap());
    (result, outcome)
}

/// A request for `tokens` tokens behind a prompt.
pub(crate) fn sequence(
    id: RequestId,
    requests: &RequestTable,
    prompt: &[u32],
    tokens: usize,
    sampling: Sampling,
    tokenizer: &Arc<Tokenizer>,
) -> Sequence {
    Sequence {
        id,
        arrived_micros: 0,
        request: requests.begin(id, 100).unwrap(),
        adapter: None,
        tokens: prompt.to_vec(),
        prompt_len: prompt.len(),
        max_len: prompt.len() + tokens,
        eos_tokens: EosTokens::default(),
        sampler: Sampler::new(sampling, prompt),
        constraint: None,
        emitter: Emitter::new(Arc::clone(tokenizer), &[]),
        ended: None,
        spans: SequenceSpans::default(),
    }
}

fn prefix_store(loaded: &Loaded, dir: &Path, engine: Sender<EngineMessage>) -> PrefixStore {
    let config = PrefixStoreConfig {
        dir,
        max_bytes: 1 << 30,
        identity: loaded.model.kv_identity(),
        token_bytes: loaded.model.kv_token_bytes(),
    };
    PrefixStore::open(config, move || drop(engine.send(EngineMessage::Wake))).unwrap()
}

/// Whether it has all of its tokens.
pub(crate) fn finished(stream: &Stream) -> bool {
    matches!(stream.1, Some(StreamEventKind::Finished { reason: FinishReason::Length, .. }))
        && stream.0.len() == 8
}
