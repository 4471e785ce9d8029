#![allow(clippy::unwrap_used)]

mod logprobs;
mod reference;
mod rules;

use std::collections::HashSet;

use proptest::prelude::*;

use reference::OURS;

use super::*;

fn warm(seed: u64) -> Sampling {
    Sampling { temperature: 1.0, seed, ..Sampling::default() }
}

fn tokens(sampling: &Sampling, logits: &[f32], count: u64) -> Vec<u32> {
    let mut sampler = Sampler::new(sampling.clone(), &[]);
    let mut scratch = Scratch::default();
    (0..count).map(|position| sampler.sample(logits, position, &mut scratch)).collect()
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    assert_eq!(tokens(&Sampling::default(), &[0.5, 2.0, 2.0, f32::NAN], 1), [1]);
    assert_eq!(tokens(&Sampling::default(), &[f32::NAN; 3], 1), [0]);
}

#[test]
fn frequencies_follow_the_probabilities() {
    let logits = [0.7_f32.ln(), 0.2_f32.ln(), 0.1_f32.ln()];
    let drawn = tokens(&warm(42), &logits, 10_000);
    for (token, expected) in [(0, 0.7), (1, 0.2), (2, 0.1)] {
        let share = drawn.iter().filter(|&&t| t == token).count() as f64 / 10_000.0;
        assert!((share - expected).abs() < 0.02, "token {token}: {share}");
    }
}

#[test]
fn filters_keep_what_they_should() {
    let logits = [0.5_f32.ln(), 0.3_f32.ln(), 0.15_f32.ln(), 0.05_f32.ln()];
    let seen = |sampling: Sampling| tokens(&sampling, &logits, 4_000).into_iter().collect::<HashSet<_>>();
    assert_eq!(seen(Sampling { top_k: 2, ..warm(1) }), HashSet::from([0, 1]));
    assert_eq!(seen(Sampling { top_p: 0.79, ..warm(1) }), HashSet::from([0, 1]));
    assert_eq!(seen(Sampling { top_p: 0.81, ..warm(1) }), HashSet::from([0, 1, 2]));
    assert_eq!(seen(Sampling { min_p: 0.2, ..warm(1) }), HashSet::from([0, 1, 2]));
    assert_eq!(seen(Sampling { min_p: 0.99, top_p: 0.01, ..warm(1) }), HashSet::from([0]));
}

/// As transformers' `TypicalLogitsWarper` keeps them: the entropy is 1.142, and the informations are 0.693, 1.204, 1.897 and
/// 2.996.
#[test]
fn typical_tokens_need_not_be_the_most_likely() {
    let logits = [0.5_f32.ln(), 0.3_f32.ln(), 0.15_f32.ln(), 0.05_f32.ln()];
    let seen = |sampling: Sampling| tokens(&sampling, &logits, 4_000).into_iter().collect::<HashSet<_>>();
    assert_eq!(seen(Sampling { typical_p: 0.2, ..warm(1) }), HashSet::from([1]));
    assert_eq!(seen(Sampling { typical_p: 0.5, ..warm(1) }), HashSet::from([0, 1]));
    assert_eq!(seen(Sampling { typical_p: 0.9, ..warm(1) }), HashSet::from([0, 1, 2]));
    assert_eq!(seen(Sampling { typical_p: 0.96, ..warm(1) }), HashSet::from([0, 1, 2, 3]));
    // Of the two that are left the entropy is 0.662, and the informations are 0.470 and 0.981.
    assert_eq!(seen(Sampling { typical_p: 0.2, top_k: 2, ..warm(1) }), HashSet::from([0]));
    let equal = Sampling { typical_p: 0.1, ..warm(1) };
    let all = tokens(&equal, &[1.0; 4], 4_000).into_iter().collect::<HashSet<_>>();
    assert_eq!(all, HashSet::from([0, 1, 2, 3]), "none is more typical than another");
}

#[test]
fn tokens_that_may_not_come_yet_are_not_chosen() {
    let mut sampler = Sampler::new(Sampling::default(), &[]).with_least(3, [0, 2, 99].into());
    let mut scratch = Scratch::default();
    let logits = [3.0, 1.0, 2.0];
    let chosen: Vec<u32> = (0..5).map(|position| sampler.sample(&logits, position, &mut scratch)).collect();
    assert_eq!(chosen, [1, 1, 1, 0, 0]);
    let complete = [f32::NEG_INFINITY, f32::NAN, 2.0];
    assert_eq!(sampler.sample(&complete, 0, &mut scratch), 2, "nothing else is possible");
}

#[test]
fn penalties_and_bias_change_the_choice() {
    let logits = [1.0, 0.9, 0.0];
    let presence = Sampling { presence_penalty: 0.5, ..Sampling::default() };
    assert_eq!(tokens(&presence, &logits, 3), [0, 1, 0]);
    let frequency = Sampling { frequency_penalty: 0.5, ..Sampling::default() };
    assert_eq!(tokens(&frequency, &logits, 4), [0, 1, 0, 1]);
    let bias = Sampling { logit_bias: vec![(2, 5.0), (99, 5.0)], ..Sampling::default() };
    assert_eq!(tokens(&bias, &logits, 1), [2]);
    let repetition = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
    let mut sampler = Sampler::new(repetition, &[0]);
    assert_eq!(sampler.sample(&logits, 1, &mut Scratch::default()), 1, "token 0 stands in the prompt");
}

#[test]
fn what_a_token_costs_is_bounded_by_the_vocabulary() {
    let logit_bias = (0..100_000_u32).map(|i| (i % 3, 0.5)).collect();
    let sampling = Sampling { logit_bias, repetition_penalty: 1.5, presence_penalty: 0.1, ..warm(3) };
    let prompt: Vec<u32> = (0..100_000_u32).map(|i| i % 2).collect();
    let mut sampler = Sampler::new(sampling, &prompt);
    let mut scratch = Scratch::default();
    for position in 0..1000 {
        sampler.sample(&[1.0, 2.0, 3.0], position, &mut scratch);
    }
    let counts = &sampler.penalties;
    assert_eq!(counts.bias.len(), 3);
    assert_eq!((counts.seen.len(), counts.in_prompt, counts.generated.len()), (3, 2, 3));
    assert_eq!(counts.generated.iter().map(|(_, count)| count).sum::<u32>(), 1000);
}

proptest! {
    /// Whatever is kept from token to token, the choice is that of penalties counted from the start.
    #[test]
    fn penalties_are_those_of_the_whole_sequence(
        logits in prop::collection::vec(-5.0_f32..5.0, 1..20),
        prompt in prop::collection::vec(0..25_u32, 0..20),
        biases in prop::collection::vec((0..20_u32, -3.0_f32..3.0), 0..30),
        repetition_penalty in prop_oneof![Just(1.0_f32), 0.5_f32..2.0],
        presence_penalty in prop_oneof![Just(0.0_f32), -2.0_f32..2.0],
        frequency_penalty in prop_oneof![Just(0.0_f32), -2.0_f32..2.0],
    ) {
        let sampling = Sampling {
            repetition_penalty, presence_penalty, frequency_penalty, logit_bias: biases.clone(),
            ..Sampling::default()
        };
        let mut sampler = Sampler::new(sampling, &prompt);
        let (mut output, mut scratch) = (Vec::<u32>::new(), Scratch::default());
        for position in 0..12 {
            let adjusted: Vec<f32> = logits.iter().zip(0..).map(|(&logit, token)| {
                let count = output.iter().filter(|&&other| other == token).count();
                let mut logit = logit;
                if count > 0 || prompt.contains(&token) {
                    logit = if logit > 0.0 { logit / repetition_penalty } else { logit * repetition_penalty };
                }
                if count > 0 {
                    logit -= presence_penalty + frequency_penalty * count as f32;
                }
                let of_token = biases.iter().filter(|(other, _)| *other == token);
                let bias = of_token.map(|(_, bias)| *bias).reduce(|sum, bias| sum + bias);
                logit + bias.unwrap_or(0.0)
            }).collect();
            let expected = OURS.sample(&Sampling::default(), &adjusted, position);
            prop_assert_eq!(sampler.sample(&logits, position, &mut scratch), expected);
            output.push(expected);
        }
    }

    /// However the tokens before came about, chosen here or elsewhere.
    #[test]
    fn accepted_tokens_count_like_chosen_ones(
        logits in prop::collection::vec(prop::collection::vec(-5.0_f32..5.0, 9), 1..20),
        prompt in prop::collection::vec(0..9_u32, 0..5),
        temperature in prop_oneof![Just(0.0_f32), Just(0.8)],
        (repetition_penalty, presence_penalty, frequency_penalty) in (0.5_f32..2.0, -2.0_f32..2.0, -2.0_f32..2.0),
        cut in any::<prop::sample::Index>(),
    ) {
        let sampling = Sampling {
            temperature, repetition_penalty, presence_penalty, frequency_penalty, ..warm(5)
        };
        let cut = cut.index(logits.len());
        let (mut whole, mut resumed) = (Sampler::new(sampling.clone(), &prompt), Sampler::new(sampling, &prompt));
        let mut scratch = Scratch::default();
        for (logits, position) in logits.iter().zip(0..) {
            let token = whole.sample(logits, position, &mut scratch);
            if (position as usize) < cut {
                resumed.accept(token);
            } else {
                prop_assert_eq!(resumed.sample(logits, position, &mut scratch), token);
            }
        }
    }

    #[test]
    fn a_draw_depends_on_seed_and_position_alone(
        logits in prop::collection::vec(-10.0_f32..10.0, 1..300),
        seed: u64,
        position in 0..10_000_u64,
        top_k in 0..20_u32,
        top_p in 0.01_f32..=1.0,
    ) {
        let sampling = Sampling { top_k, top_p, ..warm(seed) };
        let mut fresh = Sampler::new(sampling.clone(), &[]);
        let (mut used, mut scratch) = (Sampler::new(sampling, &[]), Scratch::default());
        used.sample(&logits, position + 1, &mut scratch);
        let expected = fresh.sample(&logits, position, &mut Scratch::default());
        prop_assert_eq!(used.sample(&logits, position, &mut scratch), expected);
    }

    #[test]
    fn uniform_stays_below_one(seed: u64, position: u64) {
        prop_assert!((0.0..1.0).contains(&uniform(seed, position)));
    }
}
