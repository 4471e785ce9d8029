//! Whatever the logits, the choice is that of the reference; and it is the same everywhere.

use proptest::{collection::vec, prelude::*, sample::select};
use protocol::message::DeltaTokens;

use super::{
    super::{exponential::exponential, threads::Row},
    reference::{OURS, PLAIN},
    *,
};

/// Of a text, of noise, with many equals, and with what no model should compute.
fn logits(most: usize) -> impl Strategy<Value = Vec<f32>> {
    let odd = select(vec![
        f32::NAN,
        -f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN,
        f32::MIN_POSITIVE,
        1e-45,
        0.0,
        -0.0,
    ]);
    let rare = prop_oneof![100 => -20.0_f32..20.0, 1 => odd.clone()];
    let impossible = prop_oneof![1 => -3.0_f32..3.0, 9 => Just(f32::NEG_INFINITY)];
    let steep = (0.0_f32..1.0).prop_map(|x| -3.0 * (x * 5000.0 + 1.0).ln());
    prop_oneof![
        vec(-12.0_f32..12.0, 0..most),
        vec(rare, 0..most),
        vec(odd, 0..most.min(80)),
        vec((-4_i8..4).prop_map(f32::from), 0..most),
        vec(impossible, 0..most),
        vec(steep, 0..most),
        vec(any::<f32>(), 0..most),
    ]
}

fn sampling() -> impl Strategy<Value = Sampling> {
    let temperature = prop_oneof![
        1 => Just(0.0_f32), 4 => 0.1_f32..2.0, 2 => select(vec![1e-45_f32, 1e-6, 0.01, 100.0, 1e30, f32::INFINITY]),
    ];
    let top_p =
        prop_oneof![Just(1.0_f32), 0.01_f32..1.0, select(vec![1e-30_f32, 0.95, 0.9999, 0.999_999_94])];
    let top_k = prop_oneof![2 => Just(0_u32), 1 => 1..100_u32, 1 => select(vec![1, 64, 4000, u32::MAX])];
    let min_p =
        prop_oneof![3 => Just(0.0_f32), 1 => 0.0_f32..1.0, 1 => select(vec![1e-30_f32, 1e-6, 1.0, 1.5])];
    let typical_p =
        prop_oneof![2 => Just(1.0_f32), 1 => 0.01_f32..1.0, 1 => select(vec![1e-30_f32, 0.95, 0.999_999_94])];
    (temperature, top_p, top_k, min_p, typical_p, any::<u64>()).prop_map(
        |(temperature, top_p, top_k, min_p, typical_p, seed)| Sampling {
            temperature,
            top_p,
            top_k,
            min_p,
            typical_p,
            seed,
            ..Sampling::default()
        },
    )
}

/// Numbers that look random in `[0, 1)`, the same each time.
fn noise() -> impl FnMut() -> f32 {
    let mut state = 1_u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Also if the memory was used before, for other logits.
    #[test]
    fn the_choice_is_that_of_the_reference(
        rows in vec((logits(2500), sampling()), 1..4),
        positions in vec(any::<u64>(), 8),
    ) {
        let mut scratch = Scratch::default();
        for (logits, sampling) in &rows {
            let mut sampler = Sampler::new(sampling.clone(), &[]);
            for &position in &positions {
                let expected = OURS.sample(sampling, logits, position);
                prop_assert_eq!(sampler.sample(logits, position, &mut scratch), expected);
            }
        }
    }
}

proptest! {
    #[test]
    fn rows_in_parallel_are_rows_one_after_another(
        rows in vec((logits(300), sampling(), -1.0_f32..1.0), 0..20),
        threads in 0..6_usize,
    ) {
        let samplers = || rows.iter().map(|(_, sampling, presence_penalty)| {
            Sampler::new(Sampling { presence_penalty: *presence_penalty, ..sampling.clone() }, &[])
        });
        let mut threads = SampleThreads::start(threads);
        let (mut together, mut apart) = (samplers().collect::<Vec<_>>(), samplers().collect::<Vec<_>>());
        for position in 0..3 {
            let logits = rows.iter().map(|(logits, ..)| logits);
            let in_turn: Vec<DeltaTokens> = apart.iter_mut().zip(logits.clone())
                .map(|(sampler, logits)| [sampler.sample(logits, position, &mut Scratch::default())].into_iter().collect())
                .collect();
            let at_once = together.iter_mut().zip(logits).map(|(sampler, logits)| Row { sampler, logits, draft: &[], position, mask: None });
            prop_assert_eq!(threads.sample(at_once.collect()), in_turn);
        }
    }
}

proptest! {
    /// Tokens are those that there would be without guesses, up to the first one that was guessed wrong.
    #[test]
    fn guesses_change_no_token(
        rows in vec(vec(-5.0_f32..5.0, 40), 1..7),
        sampling in sampling(),
        presence_penalty in -1.0_f32..1.0,
        wrong in 0..8_usize,
    ) {
        let sampler = || Sampler::new(Sampling { presence_penalty, ..sampling.clone() }, &[]);
        let (mut alone, mut guessing) = (sampler(), sampler());
        let tokens: Vec<u32> = rows.iter().zip(7..)
            .map(|(logits, position)| alone.sample(logits, position, &mut Scratch::default()))
            .collect();
        let mut draft = tokens[..rows.len() - 1].to_vec();
        if let Some(token) = draft.get_mut(wrong) {
            *token = (*token + 1) % 40;
        }
        let row = Row { sampler: &mut guessing, logits: &rows.concat(), draft: &draft, position: 7, mask: None };
        let found = SampleThreads::start(1).sample(vec![row]);
        let right = rows.len().min(wrong + 1);
        prop_assert_eq!(&found[0][..], &tokens[..right]);
        // What it has not chosen has left no trace.
        for (logits, position) in rows[right..].iter().zip(7 + right as u64..) {
            let token = guessing.sample(logits, position, &mut Scratch::default());
            prop_assert_eq!(token, tokens[position as usize - 7]);
        }
    }
}

#[test]
fn the_exponential_is_exact_to_a_unit_in_the_last_place() {
    let mut bits = (-0.0_f32).to_bits();
    while f32::from_bits(bits) >= -87.0 {
        let x = f32::from_bits(bits);
        let (ours, exact) = (f64::from(exponential(x)), f64::from(x).exp());
        assert!((ours - exact).abs() <= exact * 1.2e-7, "{x}: {ours} instead of {exact}");
        bits += 9973;
    }
    assert_eq!(exponential(0.0), 1.0);
    for impossible in [-87.1, -1e30, f32::NEG_INFINITY, f32::NAN] {
        assert_eq!(exponential(impossible), 0.0);
    }
}

/// Recorded once: it must be these bits on every machine.
#[test]
fn weights_and_sums_are_the_same_everywhere() {
    let mut noise = noise();
    let logits: Vec<f32> = (0..5000).map(|_| 20.0 * noise()).collect();
    let mut weights = Weights::default();
    let mut digest = 0_u64;
    for temperature in [0.2, 0.8, 1.7] {
        weights.compute(&logits, Scale { max: 20.0, temperature });
        let bits = weights.of_tokens().iter().map(|weight| u64::from(weight.to_bits()));
        for bits in bits.chain([weights.total().to_bits()]) {
            digest = (digest ^ bits).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }
    assert_eq!(digest, 0x174e_9d37_ca3a_00c2, "{digest:#x}");
}

/// The exponential and the order of sums are ours, and round differently. It shows in a draw of millions.
#[test]
fn the_rule_changes_next_to_no_draw() {
    let mut noise = noise();
    for (top_p, top_k, min_p, typical_p) in [
        (1.0, 0, 0.0, 1.0),
        (0.95, 0, 0.0, 1.0),
        (1.0, 40, 0.0, 1.0),
        (1.0, 0, 0.02, 1.0),
        (1.0, 0, 0.0, 0.9),
        (0.95, 0, 0.0, 0.7),
    ] {
        let sampling = Sampling { temperature: 0.8, top_p, top_k, min_p, typical_p, ..Sampling::default() };
        let mut sampler = Sampler::new(sampling.clone(), &[]);
        let mut scratch = Scratch::default();
        for position in 0..2000 {
            let logits: Vec<f32> = (0..300).map(|_| 14.0 * noise() * noise()).collect();
            let token = sampler.sample(&logits, position, &mut scratch);
            assert_eq!(token, PLAIN.sample(&sampling, &logits, position), "at {position}, {sampling:?}");
        }
    }
}
