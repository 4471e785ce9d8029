#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn choice() -> impl Strategy<Value = Choice> {
    let temperature = prop_oneof![1 => Just(0.0_f32), 4 => 0.2..2.0_f32];
    let top_k = prop_oneof![Just(0), 1..40_u32, Just(1000)];
    let top_p = prop_oneof![Just(1.0_f32), 0.0..1.0_f32];
    let min_p = prop_oneof![Just(0.0_f32), 0.0..1.0_f32];
    let quantile = prop_oneof![9 => 0.0..1.0_f64, 1 => Just(1.0 - f64::EPSILON), 1 => Just(0.0)];
    let filters = prop_oneof![1 => Just((0, 1.0, 0.0)), 2 => (top_k, top_p, min_p)];
    (temperature, filters, quantile).prop_map(|(temperature, (top_k, top_p, min_p), quantile)| Choice {
        temperature,
        top_k,
        top_p,
        min_p,
        quantile,
    })
}

/// Some are equal, as those of models in bfloat16 often are.
fn logit() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -9.0..9.0_f32,
        4 => (-16..16_i32).prop_map(|eighths| eighths as f32 / 4.0),
        1 => Just(f32::NEG_INFINITY),
        1 => Just(f32::NAN),
    ]
}

fn on_device(logits: &[Vec<f32>], choices: &[Choice]) -> Vec<u32> {
    mlx_ext::init().unwrap();
    let shape = [logits.len() as i32, logits[0].len() as i32];
    let chosen = choose(&Array::from_slice(&logits.concat(), &shape), choices).unwrap();
    assert_eq!(chosen.shape(), [shape[0]]);
    chosen.try_as_slice::<u32>().unwrap().to_vec()
}

/// Where in the probability of the tokens that are left a token is, in plain float64; `None` if it is not left.
fn part(choice: Choice, logits: &[f32], token: u32) -> Option<(f64, f64)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| {
        let exponent = f64::from(logit - max) / f64::from(choice.temperature);
        if logit == max {
            1.0
        } else if exponent >= f64::from(LOWEST) {
            exponent.exp()
        } else {
            0.0
        }
    };
    let mut left: Vec<(f32, u32)> =
        logits.iter().copied().zip(0..).filter(|(logit, _)| !logit.is_nan()).collect();
    if choice.is_filtered() {
        left.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    }
    if choice.top_k > 0 {
        left.truncate(choice.top_k as usize);
    }
    let total: f64 = left.iter().map(|(logit, _)| weight(*logit)).sum();
    let (mut sum, mut found) = (0.0, None);
    for (index, &(logit, it)) in left.iter().enumerate() {
        let enough = choice.top_p < 1.0 && sum >= f64::from(choice.top_p) * total;
        if index > 0 && choice.is_filtered() && (enough || weight(logit) < f64::from(choice.min_p)) {
            break;
        }
        found = found.or((it == token).then(|| (sum, sum + weight(logit))));
        sum += weight(logit);
    }
    found.map(|(start, end)| (start / sum, end / sum))
}

/// Whether a rounding can turn the choice into this token.
fn nearly(choice: Choice, logits: &[f32], token: u32) -> bool {
    let by = 1e-5;
    let filters = [(0.0, 0.0), (by, 0.0), (-by, 0.0), (0.0, by), (0.0, -by)];
    let near = |(p, m): (f32, f32)| {
        let choice = Choice { top_p: choice.top_p + p, min_p: choice.min_p * (1.0 + m), ..choice };
        part(choice, logits, token).is_some_and(|(start, end)| {
            let by = f64::from(by);
            (start - by..end + by).contains(&choice.quantile)
        })
    };
    let filters = if choice.is_filtered() { &filters[..] } else { &filters[..1] };
    !choice.is_greedy() && filters.iter().copied().any(near)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn tokens_are_those_of_the_sampler(
        (logits, choices) in (1..9_usize, 1..300_usize).prop_flat_map(|(rows, vocab)| (
            prop::collection::vec(prop::collection::vec(logit(), vocab), rows),
            prop::collection::vec(choice(), rows),
        )),
    ) {
        let found = on_device(&logits, &choices);
        for ((token, logits), choice) in found.into_iter().zip(&logits).zip(choices) {
            let expected = choice.on_host(logits);
            prop_assert!(token == expected || nearly(choice, logits, token), "{token}, not {expected}: {choice:?}");
        }
    }
}

/// A rounding turns hardly any choice, also where thousands of tokens are nearly as likely.
#[test]
fn hardly_any_draw_differs() {
    let vocab = 32_000;
    let number =
        |index: u64| ((index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1_u64 << 24) as f32) * 12.0;
    let (mut draws, mut others) = (0, 0);
    for seed in 0..12 {
        let logits: Vec<Vec<f32>> = (0..8)
            .map(|row| (0..vocab).map(|token| number(token + (row + 8 * seed) * vocab + 1)).collect())
            .collect();
        let quantile = |row: u64| f64::from(number(row + 8 * seed + 77)) / 12.0;
        let plain = Choice { temperature: 0.7, top_k: 0, top_p: 1.0, min_p: 0.0, quantile: 0.0 };
        let filters = [
            plain,
            Choice { top_p: 0.9, ..plain },
            Choice { top_k: 40, ..plain },
            Choice { min_p: 0.1, ..plain },
        ];
        let choices: Vec<Choice> =
            (0..8).map(|row| Choice { quantile: quantile(row), ..filters[row as usize % 4] }).collect();
        let expected: Vec<u32> =
            choices.iter().zip(&logits).map(|(choice, logits)| choice.on_host(logits)).collect();
        draws += expected.len();
        others += on_device(&logits, &choices)
            .iter()
            .zip(&expected)
            .filter(|(found, expected)| found != expected)
            .count();
    }
    assert!(others <= 1, "{others} of {draws}");
}

#[test]
fn rows_of_one_kind_take_no_more_than_they_need() {
    mlx_ext::init().unwrap();
    let logits = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], &[2, 2]);
    let greedy = Choice { temperature: 0.0, top_k: 3, top_p: 0.5, min_p: 0.0, quantile: 0.5 };
    let operations = |choices: &[Choice]| mlx_ext::operations(&choose(&logits, choices).unwrap()).unwrap();
    let has = |operations: &[String], name: &str| operations.iter().any(|it| it.contains(name));
    let all_greedy = operations(&[greedy; 2]);
    assert!(!["Sort", "Sum", "Exp", "Gather"].iter().any(|name| has(&all_greedy, name)), "{all_greedy:?}");
    let drawn = operations(&[Choice { temperature: 1.0, top_k: 0, top_p: 1.0, ..greedy }; 2]);
    assert!(has(&drawn, "CumSum") && !has(&drawn, "Sort"), "{drawn:?}");
}
