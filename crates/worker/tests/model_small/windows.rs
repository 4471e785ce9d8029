//! Layers with windows give back what no query sees any more, and nobody can tell from the results.

use std::cell::Cell;

use protocol::message::StreamEventKind;
use worker::{
    cache::Fork,
    model::{KvBudget, KvWindows, Model, ModelError, StepInput, StepRow},
    schedule::{Limits, WindowLimits},
};

use super::{
    BUDGET, Loaded, batches, forward,
    on::{On, alone, on_every_backend},
    prefixes::cached,
    recorded::{self, Recorded},
    served::{Beside, LIMITS, Outcome, finished, serve_by, serve_with},
    tiny::{Float, SplitMix},
};

/// A window of 24 tokens in every other layer; the same with heads of a size that only MLX's attention takes; and chunks of 40.
const MODELS: [(&str, usize); 3] = [("gemma3_text", 2), ("gpt_oss", 2), ("llama4", 0)];

/// A model, its windows' budget, and what keeps everything.
struct Both<'a> {
    model: &'a Recorded,
    on: On,
}

impl Both<'_> {
    /// With memory for the keys and values that 2,000 tokens have if all are kept: that is for a few sequences' windows.
    fn within_little(&self) -> Loaded {
        let bytes = 2000 * self.keeping_all().model.kv_token_bytes() as u64;
        self.load(KvBudget { bytes, ..BUDGET })
    }

    fn keeping_all(&self) -> Loaded {
        self.load(KvBudget { step_tokens: None, ..BUDGET })
    }

    fn load(&self, budget: KvBudget) -> Loaded {
        // Half precision rounds scales, too, so that quantized weights would be others.
        self.model.load_within(&self.model.runs[usize::from(is_float32(self.on))], self.on, budget)
    }
}

fn each(on: On, check: impl Fn(&Both<'_>)) {
    let mut recorded = recorded::committed();
    let models = if on.tries_everything() { &MODELS[..] } else { &MODELS[..1] };
    for &(name, index) in models {
        let model = recorded.get_mut(name).unwrap().swap_remove(index).with_context(4096);
        check(&Both { model: &model, on });
    }
}

/// A batch's size, or where a chunk is cut, can turn the choice between two tokens in other types.
fn is_float32(on: On) -> bool {
    on.float.is_none_or(|float| float == Float::F32)
}

fn windows(model: &Model) -> KvWindows {
    model.kv_windows().expect("layers with windows give back what they have left")
}

/// Limits that know of the model's windows.
fn knowing(model: &Model, limits: Limits) -> Limits {
    let KvWindows { tokens, stretch } = windows(model);
    Limits { windows: Some(WindowLimits { tokens, stretch }), unit_tokens: 32, ..limits }
}

fn tokens(loaded: Loaded, limits: Limits, prompts: &[&[u32]]) -> (Vec<Vec<u32>>, Vec<u32>) {
    let in_use = loaded.model.kv_in_use();
    let (result, streams): (_, Outcome) = serve_by(loaded, limits, prompts, |_| false);
    assert_eq!(in_use(), 0, "with the engine its prefixes have gone");
    assert!(result.is_ok() && streams.values().all(finished), "{streams:?}");
    let cached = streams.values().map(cached).collect();
    (streams.into_values().map(|stream| stream.0).collect(), cached)
}

/// What is served together, with little memory, prefixes, and chunks longer than a window, gets the tokens that each gets
/// alone where everything is kept.
fn a_crowd_gets_the_tokens_that_each_gets_alone(on: On) {
    let prompts = batches::prompts();
    let memory = prompts.iter().map(|prompt| prompt.len() + 1).sum();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    each(on, |both| {
        let (alone, _) = tokens(both.keeping_all(), Limits { max_num_seqs: 1, ..LIMITS }, &prompts);
        for limits in [
            LIMITS,
            Limits { kv_tokens: memory, keep_prefixes: true, ..LIMITS },
            Limits { keep_prefixes: true, unit_tokens: 32, max_draft_tokens: 4, ..LIMITS },
            Limits { max_num_batched_tokens: 1000, chunk_tokens: 60, ..LIMITS },
        ] {
            let loaded = both.within_little();
            let limits = knowing(&loaded.model, limits);
            let (found, _) = tokens(loaded, limits, &prompts);
            if is_float32(on) {
                assert_eq!(found, alone, "{limits:?} on {on:?}");
            }
        }
    });
}

/// So little memory of windows that sequences have to wait for it or lose it, and prefixes lose theirs.
fn with_hardly_any_memory_of_windows_all_get_their_tokens(on: On) {
    let mut random = SplitMix(17);
    let prompts: Vec<Vec<u32>> = (0..12).map(|n| random.tokens(20 + 11 * n, 100)).collect();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    each(on, |both| {
        let (alone, _) = tokens(both.keeping_all(), Limits { max_num_seqs: 1, ..LIMITS }, &prompts);
        let loaded = both.within_little();
        let KvWindows { stretch, .. } = windows(&loaded.model);
        let few = WindowLimits { tokens: 2 * stretch, stretch };
        let limits = Limits { windows: Some(few), unit_tokens: 32, keep_prefixes: true, ..LIMITS };
        let (found, _) = tokens(loaded, limits, &prompts);
        if is_float32(on) {
            assert_eq!(found, alone, "{on:?}");
        }
    });
}

/// A prompt that begins like an earlier one goes on behind all that they have in common, however long ago a window has left it.
fn sequences_go_on_behind_what_others_have_computed(on: On) {
    let mut random = SplitMix(77);
    let base = random.tokens(230, 100);
    let prompt = |common: usize, own: usize, random: &mut SplitMix| {
        [&base[..common], &random.tokens(own, 100)[..]].concat()
    };
    let lens = [(230, 0), (230, 0), (230, 5), (180, 20), (100, 20), (70, 30), (20, 40)];
    let prompts = lens.map(|(common, own)| prompt(common, own, &mut random));
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let limits = Limits { max_num_seqs: 1, chunk_tokens: 64, keep_prefixes: true, ..LIMITS };
    each(on, |both| {
        let (apart, _) = tokens(both.keeping_all(), Limits { keep_prefixes: false, ..limits }, &prompts);
        let loaded = both.load(BUDGET);
        let limits = knowing(&loaded.model, limits);
        let (kept, found) = tokens(loaded, limits, &prompts);
        if is_float32(on) {
            assert_eq!(kept, apart, "{on:?}");
        }
        assert!(found[1] >= 224 && found[2] >= 224, "{found:?} on {on:?}");
        assert_eq!((found[0], &found[3..]), (0, &[180, 100, 70, 0][..]), "{on:?}");
    });
}

/// A step that fails is computed again with what it had, also one that was launched.
fn steps_that_fail_lose_nothing(on: On) {
    let prompts = batches::prompts();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    each(on, |both| {
        let (expected, _) = tokens(both.keeping_all(), LIMITS, &prompts);
        let calls = Cell::new(0);
        // Only steps of several rows: these are tried one by one.
        let fails = move |input: &StepInput<'_>| {
            calls.set(calls.get() + 1);
            input.rows.len() > 1 && u32::is_multiple_of(calls.get(), 3)
        };
        let (result, streams) = serve_by(both.load(BUDGET), LIMITS, &prompts, fails);
        assert!(result.is_ok() && streams.values().all(finished), "{streams:?}");
        if is_float32(on) {
            assert_eq!(streams.into_values().map(|stream| stream.0).collect::<Vec<_>>(), expected);
        }
    });
}

/// Guesses of another model, most of which are wrong and taken back.
fn guesses_change_no_token(on: On) {
    let prompts = batches::prompts();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let guessing = recorded::committed().remove("gemma3_text").unwrap().swap_remove(0).with_context(4096);
    each(on, |both| {
        let (expected, _) = tokens(both.keeping_all(), LIMITS, &prompts);
        let loaded = both.load(BUDGET);
        let limits = knowing(&loaded.model, Limits { max_draft_tokens: 4, keep_prefixes: true, ..LIMITS });
        let checks = loaded.model.checks_drafts();
        let draft = Both { model: &guessing, on }.keeping_all();
        let (_, streams) = serve_with(
            loaded,
            limits,
            &prompts,
            |_| false,
            Beside { draft: Some(draft), ..Beside::default() },
        );
        let drafted = |end: &Option<StreamEventKind>| match end {
            Some(StreamEventKind::Finished { usage, .. }) => usage.drafted_tokens,
            _ => panic!("{end:?}"),
        };
        let guessed: u32 = streams.values().map(|stream| drafted(&stream.1)).sum();
        assert_eq!(guessed > 0, checks, "{on:?}");
        if is_float32(on) {
            assert_eq!(streams.into_values().map(|stream| stream.0).collect::<Vec<_>>(), expected);
        }
    });
}

/// Bit for bit where that is promised: as if everything was kept, at once, in pieces, and from what another sequence has left.
fn whoever_goes_on_gets_the_same_bits(on: On) {
    each(on, |both| {
        let (all, few) = (both.keeping_all(), both.load(BUDGET));
        assert_eq!(all.model.kv_windows(), None);
        if !few.model.is_invariant() {
            return;
        }
        let text = SplitMix(5).tokens(150, 100);
        let (mut kv, mut other) = (few.model.new_kv(), few.model.new_kv());
        alone(&few.model, &mut kv, &text[..100]);
        let mut fork = kv.resume(87).unwrap();
        let one_by_one =
            text[100..].iter().map(|&token| alone(&few.model, &mut kv, &[token])).last().unwrap();
        let rows: Vec<(_, &[u32])> = vec![(&mut fork, &text[87..]), (&mut other, &text[7..50])];
        let from_another = forward(&few.model, rows).remove(0);
        let expected = alone(&all.model, &mut all.model.new_kv(), &text);
        for found in [one_by_one, from_another, alone(&few.model, &mut few.model.new_kv(), &text)] {
            let differs = found.iter().zip(&expected).position(|(f, e)| f.to_bits() != e.to_bits());
            assert_eq!(differs, None, "{on:?}");
        }
    });
}

/// A sequence that was cut where a window reaches what it has given back can't go on, and says so. What was in use is free then.
fn a_sequence_without_its_window_does_not_go_on(on: On) {
    each(on, |both| {
        let Loaded { model, .. } = &both.load(BUDGET);
        let in_use = model.kv_in_use();
        let mut kv = model.new_kv();
        alone(model, &mut kv, &SplitMix(6).tokens(200, 100));
        alone(model, &mut kv, &[1]);
        kv.truncate(150);
        assert!(kv.resume(150).is_none() && kv.fork_point(150) == 0);
        let rows = vec![StepRow::last_logits(&[1], &mut kv)];
        let error = model.forward(&mut StepInput { rows }).unwrap_err();
        assert!(matches!(error, ModelError::Kv(_)), "{error}");
        assert!(error.to_string().contains("first 150 tokens some that a window reaches"), "{error}");
        assert!(in_use() > 0);
        drop(kv);
        assert_eq!(in_use(), 0);
    });
}

/// Of 2,000 tokens: all of them in layers that see all, and in others what the window and a step reach.
fn a_long_sequence_takes_little_memory_of_windows(on: On) {
    const LEN: usize = 2000;
    let text = SplitMix(8).tokens(LEN, 100);
    each(on, |both| {
        let bytes = |loaded: &Loaded| {
            let mut kv = loaded.model.new_kv();
            text.chunks(50).for_each(|chunk| drop(alone(&loaded.model, &mut kv, chunk)));
            assert_eq!(kv.len(), LEN);
            loaded.model.kv_in_use()()
        };
        let (all, few) = (both.keeping_all(), both.load(BUDGET));
        assert!(few.model.kv_tokens() > all.model.kv_tokens(), "so more tokens fit");
        let (before, after) = (bytes(&all), bytes(&few));
        assert_eq!(before, (LEN.next_multiple_of(32) * all.model.kv_token_bytes()) as u64);
        // Half of the layers have windows, or more.
        assert!(after * 10 < before * 6, "{before} bytes if all is kept, {after} with windows, on {on:?}");
    });
}

on_every_backend![
    a_crowd_gets_the_tokens_that_each_gets_alone,
    with_hardly_any_memory_of_windows_all_get_their_tokens,
    sequences_go_on_behind_what_others_have_computed,
    steps_that_fail_lose_nothing,
    guesses_change_no_token,
    whoever_goes_on_gets_the_same_bits,
    a_sequence_without_its_window_does_not_go_on,
    a_long_sequence_takes_little_memory_of_windows,
];
