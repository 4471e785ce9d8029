#![allow(clippy::unwrap_used)]

use mlx_rs::{ops::abs, random};
use proptest::prelude::*;

use super::*;

const HEADS: DeltaHeads = DeltaHeads { keys: 2, values: 4, key_dim: 12, value_dim: 9 };

/// Beside results near 1: some hundred roundings.
const TOLERANCE: f32 = 2e-5;

/// Inputs of a row, and the state before it.
struct Case {
    job: GatedDelta,
    qkv: Array,
    gates: Array,
    before: Array,
}

impl Case {
    /// `rate`: the logarithm of how fast states fade; `alike`: whether all keys are the same.
    fn new(tokens: i32, seed: u64, rate: f32, alike: bool) -> Self {
        mlx_ext::init().unwrap();
        random::seed(seed).unwrap();
        let normal = |shape: &[i32]| random::normal::<f32>(shape, None, None, None).unwrap();
        let of_keys = if alike { 1 } else { tokens };
        let keys = normal(&[1, of_keys, 2 * HEADS.keys, HEADS.key_dim]);
        let length = keys.square().unwrap().sum_axes(&[-1], true).unwrap().sqrt().unwrap();
        let keys = keys.divide(length).unwrap().reshape(&[1, of_keys, 2 * HEADS.key_width()]).unwrap();
        let keys = mlx_rs::ops::broadcast_to(&keys, &[1, tokens, 2 * HEADS.key_width()]).unwrap();
        let log_rates = Array::full::<f32>(&[HEADS.values], Array::from_f32(rate)).unwrap();
        Self {
            job: GatedDelta { heads: HEADS, log_rates, biases: normal(&[HEADS.values]), part: 0 },
            qkv: concatenate(&[keys, normal(&[1, tokens, HEADS.value_width()])], -1).unwrap(),
            gates: normal(&[1, tokens, 2 * HEADS.values]),
            before: normal(&[1, HEADS.values, HEADS.key_dim, HEADS.value_dim]),
        }
    }

    fn learned(&self, before: &Array, range: std::ops::Range<i32>, ends: &[i32]) -> Computed {
        let part = |array: &Array| array.try_index((.., range.clone(), ..)).unwrap();
        learned(&self.job, &part(&self.qkv), &part(&self.gates), before, ends).unwrap()
    }

    /// Results and states of single tokens.
    fn one_by_one(&self) -> (Vec<Array>, Vec<Array>) {
        let mut before = self.before.clone();
        let token = |token: i32| {
            let Computed { y, mut states } = self.learned(&before, token..token + 1, &[1]);
            before = states.remove(0);
            (y, before.clone())
        };
        (0..self.qkv.dim(1)).map(token).unzip()
    }
}

fn far_apart(found: &Array, expected: &Array) -> f32 {
    assert_eq!(found.shape(), expected.shape());
    let allowed = abs(expected).unwrap().add(Array::from_f32(1.0)).unwrap();
    let off = abs(found.subtract(expected).unwrap()).unwrap().divide(allowed).unwrap();
    off.max(None).unwrap().item_exact::<f32>()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn chunks_give_what_single_tokens_give(
        tokens in 2..200_i32,
        cuts in prop::collection::btree_set(1..200_i32, 0..4),
        seed: u64,
        rate in -6.0..3.0_f32,
        alike: bool,
    ) {
        let case = Case::new(tokens, seed, rate, alike);
        let ends: Vec<i32> = cuts.into_iter().filter(|&cut| cut < tokens).chain([tokens]).collect();
        let found = case.learned(&case.before, 0..tokens, &ends);
        let (results, states) = case.one_by_one();
        let off = far_apart(&found.y, &concatenate(&results, 1).unwrap());
        prop_assert!(off < TOLERANCE, "results are off by {off}");
        prop_assert_eq!(found.states.len(), ends.len());
        for (state, &end) in found.states.iter().zip(&ends) {
            let off = far_apart(state, &states[end as usize - 1]);
            prop_assert!(off < TOLERANCE, "the state behind {end} is off by {off}");
        }
    }
}

#[test]
fn chunks_end_where_states_are_wanted() {
    let cut = Cut::new(130, &[3, 100, 130]);
    assert_eq!((cut.size, &cut.ends[..]), (64, &[3, 67, 100, 130][..]));
    assert_eq!(cut.places.as_slice::<u32>()[..5], [0, 1, 2, 64, 65]);
    let few = Cut::new(5, &[5]);
    assert_eq!((few.size, few.tokens.as_slice::<u32>()), (8, &[0, 1, 2, 3, 4, 5, 5, 5][..]));
}
