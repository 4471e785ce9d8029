//! Sequences that another worker began: what is sent before the cut and after it is what an uncut stream gets.

use proptest::{collection::vec, prelude::*, sample::select};
use protocol::message::{FailureKind, FinishReason, Generate, Prompt};

use super::*;
use crate::prepare::{Preparer, Settings, samples};

/// Most tokens of prompt and output together.
const CONTEXT: usize = 40;

/// A model's whole worker without its link: what prepares, and what runs.
fn preparer(eos: &[u32]) -> Preparer {
    let tokenizer = samples::load(&samples::small());
    let settings = Settings {
        template: None,
        eos_tokens: EosTokens::new(eos.to_vec()),
        context_length: CONTEXT,
        kv_tokens: usize::MAX,
        vocab_size: samples::SMALL,
        special_tokens_in_content: false,
        embedding: None,
    };
    Preparer::new(tokenizer, settings)
}

fn generate(prompt: &[u32], sampling: &Sampling, stop: &[String], max_tokens: Option<u32>) -> Generate {
    Generate {
        sampling: sampling.clone(),
        max_tokens,
        stop: stop.to_vec(),
        ..Generate::new(RequestId(1), Prompt::Tokens(prompt.to_vec()), 1000)
    }
}

/// The stream after `generated`, and each of its chunks.
fn run(preparer: &Preparer, generate: Generate, generated: &[u32]) -> (Stream, Vec<StreamEvent>) {
    let mut world = World::new(FakeModel::random(samples::SMALL));
    let request = world.requests.begin(generate.id, generate.credit).unwrap();
    let sequence = preparer.prepare(Generate { resume: generated.to_vec(), ..generate }, request).unwrap();
    world.messages.send(EngineMessage::Sequence(Box::new(sequence))).unwrap();
    assert_eq!(world.settle(), Turn::Idle);
    assert!(world.requests.is_empty());
    (world.stream(1), world.reports.events())
}

fn sampling() -> impl Strategy<Value = Sampling> {
    let penalty = || prop_oneof![Just(0.0_f32), -1.0_f32..1.0];
    let (repetition, temperature) =
        (prop_oneof![Just(1.0_f32), 0.7_f32..1.5], prop_oneof![Just(0.0_f32), Just(0.7)]);
    let logprobs = prop_oneof![Just(None), (0..6_u8).prop_map(Some)];
    (any::<u64>(), temperature, repetition, penalty(), penalty(), 0..6_u32, logprobs).prop_map(
        |(seed, temperature, repetition_penalty, presence_penalty, frequency_penalty, top_k, logprobs)| {
            Sampling {
                seed,
                temperature,
                repetition_penalty,
                presence_penalty,
                frequency_penalty,
                top_k,
                logprobs,
                ..Sampling::default()
            }
        },
    )
}

/// Texts that the output of [`samples::small`] is likely to contain, also of special tokens and over several tokens.
fn stops() -> impl Strategy<Value = Vec<String>> {
    let part = || select(vec!["a", "b", " a", "€", "\u{fffd}", "<|x|>", "é", " "]);
    vec(vec(part(), 1..4).prop_map(|parts| parts.concat()), 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn a_cut_stream_is_the_uncut_one(
        prompt in vec(0..samples::SMALL, 1..8),
        sampling in sampling(),
        stop in stops(),
        eos in vec(0..samples::SMALL, 0..2),
        max_tokens in prop_oneof![Just(None), (1..30_u32).prop_map(Some)],
        (min_tokens, include_stop) in (prop_oneof![Just(0_u32), 0..20_u32], any::<bool>()),
        stop_tokens in vec(0..samples::SMALL, 0..3),
    ) {
        let preparer = preparer(&eos);
        let ask = || Generate {
            min_tokens,
            stop_tokens: stop_tokens.clone(),
            include_stop,
            ..generate(&prompt, &sampling, &stop, max_tokens)
        };
        let (uncut, events) = run(&preparer, ask(), &[]);
        let mut before = Stream::default();
        for event in events.iter().take(uncut.chunks + 1) {
            let (after, _) = run(&preparer, ask(), &before.tokens);
            let tokens = [&before.tokens[..], &after.tokens].concat();
            let text = before.text.clone() + &after.text;
            let parts = [&before.parts[..], &after.parts].concat();
            let logprobs = [&before.logprobs[..], &after.logprobs].concat();
            prop_assert_eq!(logprobs.len(), if sampling.logprobs.is_some() { tokens.len() } else { 0 });
            let chunks = before.chunks + after.chunks;
            let first = after.first_token.unwrap_or(before.tokens.len() as u32);
            prop_assert_eq!(first as usize, before.tokens.len(), "the place of the first token");
            let first_token = uncut.first_token;
            prop_assert_eq!(Stream { first_token, text, parts, tokens, logprobs, chunks, end: after.end }, uncut.clone(), "{:?}", before);
            if !event.kind.is_terminal() {
                before.push(event.kind.clone());
            }
        }
        prop_assert_eq!(before.chunks, uncut.chunks, "every cut was tried");
    }
}

#[test]
fn a_stop_string_over_the_cut_is_found() {
    let mut world = World::new(alphabet());
    let stop = vec!["cde".to_owned()];
    let request = world.ask(1, Ask { max_tokens: 9, stop: stop.clone(), ..Ask::default() });
    drop(request);
    world.turn();
    world.turn();
    assert_eq!(world.stream(1).text, "b", "the rest may be the stop string's");
    let resumed = |generated: &[u32]| {
        let mut world = World::new(alphabet());
        world.ask_resumed(1, Ask { max_tokens: 9, stop: stop.clone(), ..Ask::default() }, generated).unwrap();
        world.settle();
        world.stream(1)
    };
    let stream = resumed(&[1, 2]);
    assert_eq!((stream.text.as_str(), stream.reason()), ("", Some(FinishReason::Stop)));
    assert_eq!(stream.tokens, [3, 4]);
}

#[test]
fn one_that_had_ended_is_finished_without_a_step() {
    for (generated, eos, stop, reason) in [
        (&[1, 2, 3][..], vec![], "x", FinishReason::Length),
        (&[1, 2], vec![2], "x", FinishReason::Stop),
        (&[1, 2], vec![], "bc", FinishReason::Stop),
    ] {
        let mut world = World::new(alphabet());
        // Its end needs no credit.
        let ask = Ask { max_tokens: 3, eos, stop: vec![stop.into()], credit: 0, ..Ask::default() };
        world.ask_resumed(1, ask, generated).unwrap();
        assert_eq!(world.turn(), Turn::Idle);
        let stream = world.stream(1);
        assert_eq!((stream.chunks, stream.reason()), (0, Some(reason)));
        let usage = match stream.end {
            Some(StreamEventKind::Finished { usage, .. }) => usage,
            other => panic!("{other:?}"),
        };
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (1, generated.len() as u32));
        assert!(world.requests.is_empty() && world.steps().is_empty());
    }
}

#[test]
fn what_can_not_have_been_generated_is_refused() {
    let world = World::new(alphabet());
    let ask = || Ask { max_tokens: 3, eos: vec![2], ..Ask::default() };
    let error = world.ask_resumed(1, ask(), &[1, 2, 3]).unwrap_err();
    assert!(matches!(error, ResumeError::AfterEnd { tokens: 3, end: 2 }), "{error}");
    let error = world.ask_resumed(2, ask(), &[1, 1, 1, 1]).unwrap_err();
    assert!(matches!(error, ResumeError::AfterEnd { tokens: 4, end: 3 }), "{error}");

    let preparer = preparer(&[]);
    for generated in [&[samples::SMALL][..], &[1; CONTEXT]] {
        let handle = Arc::new(RequestHandle::new(1));
        let ask = generate(&[1], &Sampling::default(), &[], None);
        let failure = preparer.prepare(Generate { resume: generated.to_vec(), ..ask }, handle).err().unwrap();
        assert_eq!((failure.kind, failure.param), (FailureKind::Internal, None), "not the client's fault");
    }
}

#[test]
fn a_resumed_sequence_is_prefilled_like_a_prompt() {
    let mut world = World::new(alphabet());
    world
        .ask_resumed(1, Ask { prompt: vec![0; 3], max_tokens: 8, ..Ask::default() }, &[1, 2, 3, 4, 5, 6])
        .unwrap();
    world.settle();
    assert_eq!(world.steps(), [[4], [4], [1], [1]]);
    assert_eq!(world.stream(1).text, "hi");
}
