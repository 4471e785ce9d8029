//! Steps that are launched before the tokens of the one before are read, on real memory: streams are what they are without.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering},
};

use crossbeam_channel::{Sender, unbounded};
use protocol::{
    ids::RequestId,
    message::{Report, Sampling, StreamEventKind, Submission},
};
use tokenizers::Tokenizer;
use worker::{
    engine::{Engine, EngineMessage, EngineStats, EosTokens, emit::Emitter},
    model::{Before, KvInUse, LaunchInput, SequenceKv, StepInput, StepRow},
    report_sink::ReportSink,
    requests::RequestTable,
    sample::Choice,
    schedule::Limits,
};

use super::{
    load,
    on::{MLX_EXPANDED, On, on_every_backend},
    served::{Flaky, LIMITS, Launching, Outcome, Stream, sequence},
    tiny::{Float, Spec, SplitMix, Tiny, tokenizer},
};

/// Requests of a run. The first ones are there at once, the others come one after the other while these are served.
const REQUESTS: u64 = 12;
const AT_ONCE: u64 = 4;

/// Tokens of all streams after which the next one comes.
const APART: usize = 70;

/// Most tokens of a stream.
const TOKENS: usize = 96;

/// One that is cancelled after some of its tokens.
const CANCELLED: u64 = 5;

/// The last four need the host: penalties, logprobs, a filter that devices do not know.
fn sampling(id: u64) -> Sampling {
    let warm = Sampling { temperature: 0.9, seed: 1000 + id, ..Sampling::default() };
    match id {
        0 | 2 | 5 => Sampling::default(),
        1 => Sampling { top_p: 0.9, ..warm },
        3 => Sampling { top_k: 12, ..warm },
        4 => Sampling { min_p: 0.05, top_k: 30, ..warm },
        8 => Sampling { repetition_penalty: 1.2, ..warm },
        9 => Sampling { logprobs: Some(2), ..Sampling::default() },
        10 => Sampling { typical_p: 0.8, ..warm },
        11 => Sampling { logit_bias: vec![(3, 2.0)], ..warm },
        _ => warm,
    }
}

/// Keeps streams; lets requests come and go when some tokens have been sent; and looks at the memory at the end.
struct Client {
    streams: Mutex<Outcome>,
    waiting: Mutex<Vec<EngineMessage>>,
    engine: Sender<EngineMessage>,
    requests: Arc<RequestTable>,
    in_use: Mutex<Option<KvInUse>>,
    bytes: Mutex<Option<u64>>,
}

impl ReportSink for Client {
    fn report(&self, report: &Report) {
        let Report::Events(events) = report else {
            *self.bytes.lock().unwrap() = self.in_use.lock().unwrap().as_ref().map(|in_use| in_use());
            return;
        };
        let mut streams = self.streams.lock().unwrap();
        for event in events {
            let (tokens, end) = streams.entry(event.id.0).or_default();
            assert!(end.is_none(), "{event:?} after the end");
            match &event.kind {
                StreamEventKind::Started { .. } => {}
                StreamEventKind::Delta(delta) => {
                    assert_eq!(delta.first_token as usize, tokens.len());
                    tokens.extend(&delta.tokens);
                }
                kind => *end = Some(kind.clone()),
            }
            if event.id.0 == CANCELLED && tokens.len() == 6 {
                self.requests.apply(&Submission::Cancel(event.id));
            }
        }
        let sent: usize = streams.values().map(|stream| stream.0.len()).sum();
        let mut waiting = self.waiting.lock().unwrap();
        let came = (REQUESTS - AT_ONCE) as usize + 1 - waiting.len();
        // One after the other, and all if too many have ended early.
        let gone = |id, stream: &Stream| stream.1.is_some() || (id == CANCELLED && stream.0.len() >= 6);
        let due = sent >= APART * (came + 1) || streams.iter().all(|(&id, stream)| gone(id, stream));
        if let Some(message) = due.then(|| waiting.pop()).flatten() {
            self.engine.send(message).unwrap();
        }
    }
}

fn serve(
    on: On,
    limits: Limits,
    launching: Launching,
    fails: impl Fn(&StepInput<'_>) -> bool + 'static,
) -> Outcome {
    let stats = Arc::new(EngineStats::default());
    let loaded = load(&Tiny::new(on.spec(Spec::default()), 21), on);
    let in_use = loaded.model.kv_in_use();
    let model = Flaky::new(loaded, Arc::clone(&stats), fails).launching(launching);
    let (requests, launched) = (Arc::new(RequestTable::default()), model.launched());
    let tokenizer = Arc::new(Tokenizer::from_bytes(tokenizer(101).to_string()).unwrap());
    let (sender, messages) = unbounded();
    let mut random = SplitMix(5);
    let mut all: Vec<EngineMessage> = (0..REQUESTS)
        .map(|id| {
            let prompt = random.tokens(1 + (id as usize * 17) % 50, 100);
            let mut one = sequence(RequestId(id), &requests, &prompt, TOKENS, sampling(id), &tokenizer);
            one.eos_tokens = EosTokens::new(vec![42 + id as u32]);
            one.emitter = Emitter::new(Arc::clone(&tokenizer), &[format!("t{}", 50 + id)]);
            EngineMessage::Sequence(Box::new(one))
        })
        .collect();
    let mut waiting = all.split_off(AT_ONCE as usize);
    waiting.reverse();
    waiting.insert(0, EngineMessage::Drain);
    all.into_iter().for_each(|message| sender.send(message).unwrap());
    let client = Arc::new(Client {
        streams: Mutex::default(),
        waiting: Mutex::new(waiting),
        engine: sender,
        requests: Arc::clone(&requests),
        in_use: Mutex::new(Some(in_use)),
        bytes: Mutex::default(),
    });
    Engine::new(model, limits, messages, requests, Arc::clone(&client) as _, stats).run().unwrap();
    let launched = launched.load(Ordering::Relaxed);
    let launches = launching != Launching::Never && !on.is_exact();
    let streams = std::mem::take(&mut *client.streams.lock().unwrap());
    let lens: Vec<usize> = streams.values().map(|stream| stream.0.len()).collect();
    assert_eq!(launched > 40, launches, "{launched} steps were launched for {lens:?}");
    assert_eq!(*client.bytes.lock().unwrap(), Some(0), "blocks are left");
    streams
}

/// Every stream but the cancelled one has ended, and none has a token behind its end.
fn check(streams: &BTreeMap<u64, (Vec<u32>, Option<StreamEventKind>)>) {
    assert_eq!(streams.len() as u64, REQUESTS);
    for (&id, (tokens, end)) in streams {
        let finished = matches!(end, Some(StreamEventKind::Finished { usage, .. })
            if usage.completion_tokens as usize == tokens.len());
        assert!(finished || (id == CANCELLED && end.is_none()), "{id}: {tokens:?}, {end:?}");
        let ends = |token: &u32| *token == 42 + id as u32;
        let behind = tokens.iter().position(ends).map_or(0, |end| tokens.len() - end - 1);
        assert!(behind == 0 && tokens.len() <= TOKENS, "{id}: {tokens:?}");
    }
}

/// As far as two streams have to be alike: one may have been cancelled a token earlier.
fn alike(found: &Outcome, expected: &Outcome) {
    for ((id, found), expected) in found.iter().zip(expected.values()) {
        if *id == CANCELLED {
            let common = found.0.len().min(expected.0.len());
            assert_eq!(found.0[..common], expected.0[..common]);
        } else {
            assert_eq!(found, expected, "{id}");
        }
    }
}

fn is_float32(on: On) -> bool {
    on.float.is_none_or(|float| float == Float::F32)
}

/// With room for all, with memory so short that some are preempted, and with few places.
fn limits() -> [Limits; 3] {
    [LIMITS, Limits { kv_tokens: 150, ..LIMITS }, Limits { max_num_seqs: 3, ..LIMITS }]
}

fn streams_are_the_same_whether_steps_are_launched_or_not(on: On) {
    for limits in limits() {
        let ordinary = serve(on, limits, Launching::Never, |_| false);
        let ahead = serve(on, limits, Launching::Allowed, |_| false);
        check(&ordinary);
        check(&ahead);
        // A batch's size can turn the choice between two tokens in other types.
        if is_float32(on) {
            alike(&ahead, &ordinary);
        }
    }
}

fn launched_steps_that_fail_cost_nobody_anything(on: On) {
    for launching in [Launching::Allowed, Launching::FailsLate] {
        let steps = Cell::new(0);
        let found = serve(on, LIMITS, launching, move |input| {
            steps.set(steps.get() + 1);
            input.rows.len() > 1 && steps.get() % 4 == 0
        });
        check(&found);
        if is_float32(on) {
            alike(&found, &serve(on, LIMITS, Launching::Never, |_| false));
        }
    }
}

/// Rows come and go between launched steps, in another order, and one has a token that is known.
fn a_launched_step_takes_chosen_tokens_and_known_ones(on: On) {
    let model = load(&Tiny::new(on.spec(Spec::default()), 22), on).model;
    if !model.launches() {
        return;
    }
    let prompts = [vec![3, 1, 4], vec![1; 40], vec![5, 9]];
    let begin = || {
        let mut kvs = [model.new_kv(), model.new_kv(), model.new_kv()];
        let rows = kvs.iter_mut().zip(&prompts).map(|(kv, prompt)| StepRow::no_logits(prompt, kv));
        model.forward(&mut StepInput { rows: rows.collect() }).unwrap();
        kvs
    };
    let greedy = |rows: usize| vec![Some(Choice::KINDS[0]); rows];
    let launch = |rows: Vec<(&mut SequenceKv, &[u32])>, before| {
        let rows: Vec<_> = rows.into_iter().map(|(kv, tokens)| StepRow::last_logits(tokens, kv)).collect();
        let choices = greedy(rows.len());
        model.launch(&mut LaunchInput { step: StepInput { rows }, choices, before })
    };
    let [a, b, c] = &mut begin();
    let first = launch(vec![(a, &[7]), (b, &[8])], None).unwrap();
    let behind = |step, chosen: &[Option<usize>]| Some(Before { step, chosen: chosen.to_vec() });
    // The first step still gathers what it needs, and this one would have to.
    let chosen = behind(&first, &[Some(1), None, Some(0)]);
    let early = launch(vec![(b, &[0]), (c, &[9]), (a, &[0])], chosen).unwrap_err();
    assert!(early.is_too_early(), "{early}");
    let second = launch(vec![(a, &[0]), (b, &[0])], behind(&first, &[Some(0), Some(1)])).unwrap();
    let chosen = behind(&second, &[Some(1), None, Some(0)]);
    let third = launch(vec![(b, &[0]), (c, &[9]), (a, &[0])], chosen).unwrap();
    let found = [&first, &second, &third].map(|step| model.land(step).unwrap().chosen);
    assert_eq!([a.len(), b.len(), c.len()], [6, 43, 3]);

    let [a, b, c] = &mut begin();
    let choose = |rows: Vec<(&mut SequenceKv, u32)>| {
        let tokens: Vec<[u32; 1]> = rows.iter().map(|row| [row.1]).collect();
        let rows = rows.into_iter().zip(&tokens).map(|((kv, _), tokens)| StepRow::last_logits(tokens, kv));
        let rows: Vec<_> = rows.collect();
        let choices = greedy(rows.len());
        model.forward_choosing(&mut StepInput { rows }, &choices).unwrap().chosen
    };
    let first = choose(vec![(a, 7), (b, 8)]);
    let second = choose(vec![(a, first[0]), (b, first[1])]);
    let third = choose(vec![(b, second[1]), (c, 9), (a, second[0])]);
    assert_eq!(found, [first, second, third]);
}

on_every_backend![
    a_launched_step_takes_chosen_tokens_and_known_ones,
    streams_are_the_same_whether_steps_are_launched_or_not,
    launched_steps_that_fail_cost_nobody_anything,
];

#[test]
#[cfg(target_os = "linux")]
fn tokens_are_those_of_the_cpu() {
    alike(
        &serve(MLX_EXPANDED, LIMITS, Launching::Allowed, |_| false),
        &serve(super::on::CPU, LIMITS, Launching::Allowed, |_| false),
    );
}
