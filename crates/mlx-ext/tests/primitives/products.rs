//! `cpu::linear` and `cpu::embedding` against float64.

use mlx_ext::{
    MicroScaling,
    cpu::{self, Linear, Matrix, Quantization},
};
use mlx_rs::{Array, Dtype, ops};
use proptest::prelude::*;

use crate::support::{
    Expected, Random, cases, number, product,
    products::{Storage, Weights, computed, expected, plain},
    wide,
};

const EPS: f32 = 1e-5;

/// Rows, outputs, groups of inputs, seed.
fn shapes() -> impl Strategy<Value = (i32, i32, i32, u64)> {
    (1..=70_i32, 1..=150_i32, 1..=9_i32, any::<u64>())
}

/// Inputs of a dense matrix, which come in any number.
fn inputs_of(storage: Storage, groups: i32, random: &mut Random) -> i32 {
    match storage {
        Storage::Dense(_) => 1 + random.below(groups as usize * 90) as i32,
        Storage::Affine { group, .. } => group * groups,
    }
}

#[test]
fn products_of_every_storage() {
    for storage in Storage::all() {
        proptest!(cases(16), |((rows, outputs, groups, seed) in shapes(), biased: bool, added: bool)| {
            let random = &mut Random::new(seed);
            let inputs = inputs_of(storage, groups, random);
            let mut weights = [Weights::new(random, storage, outputs, inputs)];
            if biased {
                weights = weights.map(|weights| weights.with_bias(random));
            }
            let x = random.activations(rows, inputs);
            let residual = added.then(|| random.normals(&[rows, outputs]));
            let matrices = weights.each_ref().map(Weights::matrix);
            let job = Linear { residual: residual.as_ref(), ..plain(&x, &matrices) };
            expected(&job, &weights).check(&computed(&job));
        });
    }
}

#[test]
fn products_with_activations_of_eight_bits() {
    for storage in Storage::all() {
        proptest!(cases(6), |((rows, outputs, groups, seed) in shapes())| {
            let random = &mut Random::new(seed);
            let inputs = inputs_of(storage, groups, random);
            let weights = [Weights::new(random, storage, outputs, inputs)];
            let x = random.activations(rows, inputs);
            let matrices = weights.each_ref().map(Weights::matrix);
            let job = Linear { int8: true, ..plain(&x, &matrices) };
            expected(&job, &weights).check(&computed(&job));
        });
    }
}

/// What a transformer block asks for: a normalization, then several matrices, which may be stored differently.
#[test]
fn normalized_products_of_several_matrices() {
    let storages = [
        Storage::Affine { bits: 4, group: 32, scales: Dtype::Float16 },
        Storage::Affine { bits: 8, group: 64, scales: Dtype::Bfloat16 },
        Storage::Dense(Dtype::Float16),
    ];
    proptest!(cases(48), |((rows, outputs, groups, seed) in shapes(), order in Just(storages.to_vec()).prop_shuffle(),
                          added: bool)| {
        let random = &mut Random::new(seed);
        let inputs = 64 * groups;
        let weights: Vec<Weights> = order
            .iter()
            .map(|&storage| {
                let outputs = 1 + random.below(outputs as usize) as i32;
                Weights::new(random, storage, outputs, inputs).with_bias(random)
            })
            .collect();
        let matrices: Vec<Matrix<'_>> = weights.iter().map(Weights::matrix).collect();
        let width = weights.iter().map(|weights| weights.values.dim(0)).sum();
        let (x, norm) = (random.activations(rows, inputs), random.normals(&[inputs]));
        let residual = added.then(|| random.normals(&[rows, width]));
        let job = Linear { norm: Some((&norm, EPS)), residual: residual.as_ref(), ..plain(&x, &matrices) };
        expected(&job, &weights).check(&computed(&job));
    });
}

#[test]
fn gated_products() {
    for storage in Storage::all() {
        proptest!(cases(6), |((rows, outputs, groups, seed) in shapes(), normed: bool, gelu: bool)| {
            let random = &mut Random::new(seed);
            let inputs = inputs_of(storage, groups, random);
            let weights = [0, 1].map(|_| Weights::new(random, storage, outputs, inputs));
            let matrices = weights.each_ref().map(Weights::matrix);
            let (x, norm) = (random.activations(rows, inputs), random.normals(&[inputs]));
            let gate = Some(if gelu { cpu::Gate::GeluTanh } else { cpu::Gate::Silu });
            let job = Linear { norm: normed.then_some((&norm, EPS)), gate, ..plain(&x, &matrices) };
            expected(&job, &weights).check(&computed(&job));
        });
    }
}

/// Products with the identity are exact, so this is RMSNorm alone, to its own bound.
#[test]
fn normalization_alone() {
    proptest!(cases(48), |(rows in 1..=70_i32, inputs in 1..=300_i32, seed: u64)| {
        let random = &mut Random::new(seed);
        let (x, norm) = (random.activations(rows, inputs), random.normals(&[inputs]));
        let identity = identity(inputs);
        let matrix = Matrix { weight: &identity, quantization: None, bias: None };
        let found = computed(&Linear { norm: Some((&norm, EPS)), ..plain(&x, &[matrix]) });
        let theirs = mlx_rs::fast::rms_norm(&x, Some(&norm), EPS).unwrap();
        // Between two float32 results stand the roundings of both: those of at most 300 squares halved, and six.
        let allowed = wide(&theirs).abs().unwrap() * number(2.0 * (300.0 / 2.0 + 6.0) * crate::support::ROUNDING);
        Expected { value: wide(&theirs), error: allowed }.check(&found);
    });
}

/// Likewise SwiGLU, of gates from far below to far above what float32's exponential holds.
#[test]
fn gating_alone() {
    proptest!(cases(32), |(rows in 1..=70_i32, inputs in 1..=70_i32, size in 0.1_f32..150.0, seed: u64)| {
        let random = &mut Random::new(seed);
        let x = random.array(&[rows, inputs], |random| size * random.normal());
        let identity = identity(inputs);
        let matrix = Matrix { weight: &identity, quantization: None, bias: None };
        let found = computed(&Linear { gate: Some(cpu::Gate::Silu), ..plain(&x, &[matrix, matrix]) });
        // silu(x) x: ten roundings; below -88.02, where the exponential of -x ends lest it leave float32, what silu
        // then is instead of nothing, |x| e^-88.02, a hundredth more for its own roundings; and whatever is too small
        // for a normal number.
        let x = wide(&x);
        let sigmoid = number(1.0) / (crate::support::exponential(&(&x * number(-1.0))) + number(1.0));
        let value = &x * &x * sigmoid;
        let error = value.abs().unwrap() * number(10.0 * crate::support::ROUNDING)
            + &x * &x * number((-88.01_f64).exp())
            + number(f64::from(f32::MIN_POSITIVE));
        Expected { value, error }.check(&found);
    });
}

/// Likewise gpt-oss's SwiGLU, of gates and ups below, between and above their bounds.
#[test]
fn bounded_gating_alone() {
    proptest!(cases(32), |(rows in 1..=70_i32, inputs in 1..=70_i32, size in 0.1_f32..150.0, seed: u64)| {
        let random = &mut Random::new(seed);
        let x = random.array(&[rows, inputs], |random| size * random.normal());
        let identity = identity(inputs);
        let matrix = Matrix { weight: &identity, quantization: None, bias: None };
        let found = computed(&Linear { gate: Some(cpu::Gate::SwigluOai), ..plain(&x, &[matrix, matrix]) });
        let x = wide(&x);
        let gate = ops::minimum(&x, number(7.0)).unwrap();
        let up = ops::maximum(&gate, number(-7.0)).unwrap() + number(1.0);
        let sigmoid = number(1.0) / (crate::support::exponential(&(&gate * number(-1.702))) + number(1.0));
        let value = &gate * &up * sigmoid;
        // Ten roundings, of which that of 1.702 x counts as often as the exponent is large; what is left where float32's
        // exponential ends.
        let roundings = (gate.abs().unwrap() * number(3.0) + number(10.0)) * number(crate::support::ROUNDING);
        let ends = &gate * &up * number((-88.01_f64).exp());
        let error = value.abs().unwrap() * roundings + ends.abs().unwrap() + number(f64::from(f32::MIN_POSITIVE));
        Expected { value, error }.check(&found);
    });
}

#[test]
fn rows_of_every_storage() {
    for storage in Storage::all() {
        proptest!(cases(8), |((count, outputs, groups, seed) in shapes())| {
            let random = &mut Random::new(seed);
            let inputs = inputs_of(storage, groups, random);
            let weights = Weights::new(random, storage, outputs, inputs);
            let tokens: Vec<u32> = (0..count).map(|_| random.below(outputs as usize) as u32).collect();
            let tokens = Array::from_slice(&tokens, &[count]);
            let found = cpu::embedding(&weights.matrix(), &tokens, inputs).unwrap();
            weights.rows(&tokens).check(&found);
        });
    }
}

/// The packing is MLX's: what its `quantize` made, our product takes for what its `dequantize` and its
/// `quantized_matmul` take it for.
#[test]
fn the_packing_is_mlx_s() {
    let random = &mut Random::new(1);
    for (bits, group) in
        [2, 3, 4, 5, 6, 8].into_iter().flat_map(|bits| [32, 64, 128].map(|group| (bits, group)))
    {
        let (x, dense) = (random.normals(&[3, 256]), random.normals(&[64, 256]));
        let (weight, scales, biases) = ops::quantize(&dense, group, bits).unwrap();
        let quantization = Quantization::Affine { scales: &scales, biases: &biases, group_size: group, bits };
        let matrix = Matrix { weight: &weight, quantization: Some(quantization), bias: None };

        let tokens = Array::from_slice(&(0..64_u32).collect::<Vec<_>>(), &[64]);
        let rows = cpu::embedding(&matrix, &tokens, 256).unwrap();
        let theirs = ops::dequantize(&weight, &scales, &biases, group, bits).unwrap();
        near(&rows, &theirs, 1e-6); // values up to 4, two roundings

        let theirs = ops::quantized_matmul(&x, &weight, &scales, &biases, true, group, bits).unwrap();
        // 256 products near 1 with activations off by up to 1.5 / 32767, most of which cancels.
        near(&computed(&plain(&x, &[matrix])), &theirs, 2e-3);
    }
}

/// The same of floats of 4 bits, which no rounding changes.
#[test]
fn small_floats_are_mlx_s() {
    let random = &mut Random::new(3);
    let size = |random: &mut Random| random.normal() * 2_f32.powi(random.below(40) as i32 - 20);
    let (x, dense) = (random.normals(&[5, 544]), random.array(&[40, 544], size));
    let (weight, scales) = MicroScaling::Mxfp4.quantize(&dense).unwrap();
    let theirs = MicroScaling::Mxfp4.dequantize(&weight, &scales, Dtype::Float32).unwrap();
    let matrix =
        Matrix { weight: &weight, quantization: Some(Quantization::Mxfp4 { scales: &scales }), bias: None };

    let tokens = Array::from_slice(&(0..40_u32).collect::<Vec<_>>(), &[40]);
    let rows = cpu::embedding(&matrix, &tokens, 544).unwrap();
    near(&rows, &theirs, 0.0);

    for int8 in [false, true] {
        let found = computed(&Linear { int8, ..plain(&x, &[matrix]) });
        let value = product(&wide(&x), &wide(&theirs));
        let sizes = product(&wide(&x).abs().unwrap(), &wide(&theirs).abs().unwrap());
        let largest = wide(&theirs).abs().unwrap().sum_axis(1, true).unwrap().t();
        // Activations off by half of a 32767th of at most 4; seventeen groups of four roundings each, of terms several
        // times as large as the weights.
        let error = &sizes * number(5.0 * 17.0 * 4.0 * crate::support::ROUNDING)
            + largest * number(2.0 * 4.0 / 32767.0);
        Expected { value, error }.check(&found);
    }
}

/// What is expanded when a model is loaded loses nothing to bfloat16.
#[test]
fn small_floats_are_exact_in_bfloat16() {
    for format in MicroScaling::ALL {
        // Every value and every scale that is not infinite and does not make one so.
        let words: Vec<u32> = (0..64_u32).map(|i| i * 0x0404_0404 + 0x0302_0100).collect();
        let count = 64 * 32 / format.bits();
        let groups = count / format.group_size();
        let scales: Vec<u8> = match format {
            MicroScaling::Nvfp4 => (0..127).collect(),
            MicroScaling::Mxfp4 | MicroScaling::Mxfp8 => (4..=245).collect(),
        };
        let rows = scales.len() as i32;
        let packed = Array::from_slice(&words.repeat(scales.len()), &[rows, 64]);
        let all: Vec<u8> = scales.iter().flat_map(|&scale| vec![scale; groups as usize]).collect();
        let scales = Array::from_slice(&all, &[rows, groups]);
        let expand = |dtype| wide(&format.dequantize(&packed, &scales, dtype).unwrap());
        let (narrow, exact) = (expand(Dtype::Bfloat16), expand(Dtype::Float32));
        let same = narrow.eq(&exact).unwrap();
        // e4m3 has two values that are no numbers.
        let numbers = exact.eq(&exact).unwrap();
        assert!(
            same.logical_or(numbers.logical_not().unwrap()).unwrap().all(None).unwrap().item_exact::<bool>(),
            "{format:?}"
        );
    }
}

/// The bounds are tight enough to notice that one weight of hundreds is off by one step.
#[test]
fn one_wrong_weight_is_noticed() {
    let random = &mut Random::new(2);
    for (bits, step) in [(2, 1), (3, 1), (4, 1), (5, 2), (6, 4), (8, 16)] {
        let mut integers: Vec<u8> = (0..20 * 256).map(|_| random.bits() as u8 >> (8 - bits)).collect();
        let seed = random.bits();
        let make = |integers: &[u8]| {
            Weights::affine(&mut Random::new(seed), integers, [20, 256], bits, 32, Dtype::Float16)
        };
        let x = random.normals(&[5, 256]);
        let right = make(&integers);
        integers[7 * 256 + 100] ^= step;
        let wrong = make(&integers);
        let found = computed(&plain(&x, &[wrong.matrix()]));
        let miss = expected(&plain(&x, &[]), &[right]).miss(&found);
        assert!(miss > 2.0, "{miss}");
    }
}

fn identity(size: i32) -> Array {
    ops::eye::<f32>(size, None, None).unwrap()
}

#[track_caller]
fn near(found: &Array, expected: &Array, tolerance: f64) {
    let value = wide(expected);
    Expected { error: &value * number(0.0) + number(tolerance), value }.check(found);
}
