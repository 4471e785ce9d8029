//! How likely tokens are, compared with a plain sum of exponentials.

use protocol::message::TokenLogprob;

use super::*;

/// Every token with its logarithm, the most likely first.
fn softmax(logits: &[f32]) -> Vec<Ranked> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    let mut all: Vec<Ranked> = logits
        .iter()
        .zip(0..)
        .map(|(&logit, token)| (token, (f64::from(logit - max) - total.ln()) as f32))
        .collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all
}

fn asking(logprobs: u8) -> Sampling {
    Sampling { logprobs: Some(logprobs), ..warm(1) }
}

proptest! {
    /// Whatever changes the choice does not change what the model says.
    #[test]
    fn rankings_are_those_of_the_model(
        logits in prop::collection::vec(-20.0_f32..20.0, 1..400),
        logprobs in 0..=20_u8,
        (temperature, top_k, typical_p) in (0.0_f32..2.0, 0..5_u32, 0.3_f32..1.2),
        bias in prop::collection::vec((0..400_u32, -5.0_f32..5.0), 0..4),
    ) {
        let sampling = Sampling {
            temperature, top_k, typical_p, presence_penalty: 1.0, logit_bias: bias, ..asking(logprobs)
        };
        let silent = Sampling { logprobs: None, ..sampling.clone() };
        let (mut sampler, mut silent) = (Sampler::new(sampling, &[]), Sampler::new(silent, &[]));
        let mut scratch = Scratch::default();
        let expected = softmax(&logits);
        let near = |a: Ranked, b: Ranked| a.0 == b.0 && (a.1 - b.1).abs() < 1e-4;
        for position in 0..3 {
            let token = sampler.sample(&logits, position, &mut scratch);
            prop_assert_eq!(silent.sample(&logits, position, &mut scratch), token, "asking changes no choice");
            let Ranking { chosen, top } = sampler.take_ranking().unwrap();
            let of_chosen = expected.iter().find(|ranked| ranked.0 == token).unwrap();
            prop_assert!(near(chosen, *of_chosen), "{:?}, not {:?}", chosen, of_chosen);
            prop_assert_eq!(top.len(), usize::from(logprobs).min(logits.len()));
            for (&found, &expected) in top.iter().zip(&expected) {
                prop_assert!(near(found, expected) || (found.1 - expected.1).abs() < 1e-6, "{:?}, not {:?}", found, expected);
            }
        }
        prop_assert_eq!(sampler.take_ranking(), None);
        prop_assert_eq!(silent.take_ranking(), None);
    }
}

#[test]
fn what_is_impossible_has_the_least() {
    let mut sampler = Sampler::new(asking(4), &[]);
    let mut scratch = Scratch::default();
    sampler.sample(&[1.0, f32::NEG_INFINITY, f32::NAN, -200.0], 0, &mut scratch);
    let ranking = sampler.take_ranking().unwrap();
    assert_eq!(
        ranking,
        Ranking { chosen: (0, 0.0), top: vec![(0, 0.0), (3, -201.0), (1, TokenLogprob::LEAST)] }
    );
    sampler.sample(&[f32::NAN; 3], 1, &mut scratch);
    assert_eq!(sampler.take_ranking().unwrap(), Ranking { chosen: (0, TokenLogprob::LEAST), top: vec![] });
    sampler.sample(&[f32::INFINITY, 1.0], 2, &mut scratch);
    let certain = Ranking { chosen: (0, 0.0), top: vec![(0, 0.0), (1, TokenLogprob::LEAST)] };
    assert_eq!(sampler.take_ranking().unwrap(), certain);
}

#[test]
fn rankings_of_several_tokens_are_asked_for_in_order() {
    let mut sampler = Sampler::new(Sampling { logprobs: Some(1), ..Sampling::default() }, &[]);
    let mut scratch = Scratch::default();
    sampler.accept(7);
    for (position, logits) in [[1.0, 2.0], [2.0, 1.0]].iter().enumerate() {
        sampler.sample(logits, position as u64, &mut scratch);
    }
    let chosen = std::iter::from_fn(|| sampler.take_ranking()).map(|ranking| ranking.chosen.0);
    assert_eq!(chosen.collect::<Vec<_>>(), [1, 0], "none of what was accepted");
}
