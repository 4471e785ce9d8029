#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::sample::Scratch;

fn sampling() -> impl Strategy<Value = Sampling> {
    let filters = (
        prop_oneof![Just(0), 1..5_u32],
        prop_oneof![Just(1.0_f32), 0.0..1.0_f32],
        prop_oneof![Just(0.0_f32), 0.0..1.0_f32],
    );
    (prop_oneof![Just(0.0_f32), 0.1..2.0_f32], filters, any::<u64>()).prop_map(
        |(temperature, (top_k, top_p, min_p), seed)| Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
            seed,
            ..Sampling::default()
        },
    )
}

proptest! {
    #[test]
    fn a_choice_is_what_the_sampler_chooses(
        sampling in sampling(),
        logits in prop::collection::vec(-4.0..4.0_f32, 1..40),
        position: u64,
    ) {
        let mut sampler = Sampler::new(sampling, &[]);
        let choice = sampler.choice(position).unwrap();
        let expected = sampler.sample(&logits, position, &mut Scratch::default());
        prop_assert_eq!(choice.on_host(&logits), expected);
    }
}

#[test]
fn what_takes_more_than_logits_is_for_the_host() {
    let of = |sampling: Sampling| Sampler::new(sampling, &[1]).choice(7);
    let warm = Sampling { temperature: 1.0, ..Sampling::default() };
    assert!(of(warm.clone()).is_some());
    for sampling in [
        Sampling { repetition_penalty: 1.1, ..warm.clone() },
        Sampling { presence_penalty: 0.5, ..warm.clone() },
        Sampling { frequency_penalty: 0.5, ..warm.clone() },
        Sampling { logit_bias: vec![(3, 1.0)], ..warm.clone() },
        Sampling { typical_p: 0.9, ..warm.clone() },
        Sampling { logprobs: Some(0), ..warm.clone() },
    ] {
        assert_eq!(of(sampling.clone()), None, "{sampling:?}");
    }
    assert!(
        of(Sampling { typical_p: 0.9, ..Sampling::default() }).is_some(),
        "the largest is typical or not"
    );
    let least = Sampler::new(warm, &[1]).with_least(8, [0].into());
    assert_eq!((least.choice(7), least.choice(8).is_some()), (None, true));
}
