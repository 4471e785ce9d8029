//! Where the time of the engine's steps goes, with everything that a worker does in them.

use std::sync::{Arc, Mutex};

use artifact_store::Artifact;
use crossbeam_channel::unbounded;
use protocol::{
    ids::RequestId,
    message::{Report, Sampling, StepTime, StreamEventKind},
    options::WorkerOptions,
};
use worker::{
    engine::{Engine, EngineMessage, EngineStats, EosTokens, Sequence, emit::Emitter},
    model::Model,
    options,
    prepare::PromptTokenizer,
    report_sink::ReportSink,
    request_trace::SequenceSpans,
    requests::RequestTable,
    sample::Sampler,
    schedule::Limits,
};

/// Sequences that decode together.
pub(super) struct Decode {
    pub(super) batch: usize,
    pub(super) context: usize,
    pub(super) steps: usize,
    pub(super) sampling: Sampling,
}

/// Takes reports, and notes how the time divided when the last sequence had its first token: before that, prompts are
/// computed.
struct Watch {
    stats: Arc<EngineStats>,
    decoding_since: Mutex<StepTime>,
}

impl Decode {
    /// Seconds of each stage but waiting, while all sequences decode, in the order of [`StepTime`]. Nothing is guessed, so
    /// that all steps have the same size.
    pub(super) fn measure(self, model: Model, artifact: &Artifact) -> Vec<f64> {
        let Self { batch, context, steps, sampling } = self;
        let tokenizer = PromptTokenizer::from_bytes(&artifact.read_tokenizer().unwrap()).unwrap();
        let prompt = super::prompt(&model, batch + context);
        let limits = options::limits(&WorkerOptions::default(), model.kv_tokens(), model.kv_sequences());
        let limits = Limits { max_num_seqs: batch, keep_prefixes: false, max_draft_tokens: 0, ..limits };
        let (sender, messages) = unbounded();
        let (requests, stats) = (Arc::new(RequestTable::default()), Arc::new(EngineStats::default()));
        for number in 0..batch {
            let id = RequestId(number as u64);
            let tokens = prompt[number..][..context].to_vec();
            let sequence = Sequence {
                id,
                arrived_micros: 0,
                request: requests.begin(id, u32::MAX).unwrap(),
                adapter: None,
                prompt_len: tokens.len(),
                // The first token comes with the prompt.
                max_len: tokens.len() + steps + 1,
                eos_tokens: EosTokens::default(),
                sampler: Sampler::new(Sampling { seed: number as u64, ..sampling.clone() }, &tokens),
                constraint: None,
                emitter: Emitter::new(Arc::clone(tokenizer.tokenizer()), &[]),
                tokens,
                ended: None,
                spans: SequenceSpans::default(),
            };
            sender.send(EngineMessage::Sequence(Box::new(sequence))).unwrap();
        }
        sender.send(EngineMessage::Drain).unwrap();
        let watch = Arc::new(Watch { stats: Arc::clone(&stats), decoding_since: Mutex::default() });
        let engine =
            Engine::new(model, limits, messages, requests, Arc::clone(&watch) as _, Arc::clone(&stats));
        engine.run().unwrap();
        let began = seconds(*watch.decoding_since.lock().unwrap());
        let ended = seconds(stats.heartbeat().time);
        ended.iter().zip(began).map(|(ended, began)| ended - began).collect()
    }
}

impl ReportSink for Watch {
    fn report(&self, report: &Report) {
        let Report::Events(events) = report else { return };
        let is_first =
            |kind: &StreamEventKind| matches!(kind, StreamEventKind::Delta(delta) if delta.first_token == 0);
        if events.iter().any(|event| is_first(&event.kind)) {
            *self.decoding_since.lock().unwrap() = self.stats.heartbeat().time;
        }
    }
}

fn seconds(time: StepTime) -> [f64; 5] {
    let StepTime { schedule_micros, build_micros, evaluate_micros, sample_micros, emit_micros, .. } = time;
    [schedule_micros, build_micros, evaluate_micros, sample_micros, emit_micros]
        .map(|micros| micros as f64 / 1e6)
}
