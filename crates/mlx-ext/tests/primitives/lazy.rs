//! Operations as parts of MLX's graph: chains of them, and what they refuse.

use mlx_ext::{
    MicroScaling,
    cpu::{
        self, ExpertSet, KvDtype, KvPool, KvShape, Linear, Matrix, NormKind, NormedPart, Quantization,
        Rowwise, StepRow,
    },
};
use mlx_rs::{Array, Dtype, ops::indexing::TryIndexOp, transforms::eval};

use crate::support::{
    Random, bits,
    products::{Storage, Weights, evaluated, plain},
};

/// Operations on each other's lazy results give the bits that they give one by one, whichever of them are asked for.
#[test]
fn a_chain_gives_the_bits_of_its_parts() {
    let random = &mut Random::new(20);
    let storage = Storage::Affine { bits: 4, group: 32, scales: Dtype::Float16 };
    let table = Weights::new(random, Storage::Dense(Dtype::Bfloat16), 50, 64);
    let (up, down) = (Weights::new(random, storage, 96, 64), Weights::new(random, storage, 64, 96));
    let tokens = Array::from_slice(&[3_u32, 49, 0, 3, 7], &[5]);
    let (up, down) = ([up.matrix()], [down.matrix()]);
    let block = |x: &Array, between: &dyn Fn(&Array)| {
        let inner = cpu::linear(&plain(x, &up)).unwrap();
        between(&inner);
        let y = cpu::linear(&Linear { residual: Some(x), ..plain(&inner, &down) }).unwrap();
        between(&y);
        (inner, y)
    };
    let lazy = |_: &Array| {};
    let at_once = |array: &Array| array.eval().unwrap();

    let x = cpu::embedding(&table.matrix(), &tokens, 64).unwrap();
    x.eval().unwrap();
    let (expected_inner, expected) = block(&x, &at_once);
    let (_, expected_next) = block(&expected, &at_once);

    let x = cpu::embedding(&table.matrix(), &tokens, 64).unwrap();
    let (inner, y) = block(&x, &lazy);
    let (_, next) = block(&y, &lazy);
    eval([&next, &inner]).unwrap();
    assert_eq!(bits(&next), bits(&expected_next));
    assert_eq!(bits(&inner), bits(&expected_inner));
    assert_eq!(bits(&y), bits(&expected));

    // On this thread, without MLX; what has been computed stays so.
    let (_, y) = block(&cpu::embedding(&table.matrix(), &tokens, 64).unwrap(), &lazy);
    let (_, next) = block(&y, &lazy);
    cpu::evaluate(&next).unwrap();
    assert_eq!(bits(&next), bits(&expected_next));
    cpu::evaluate(&next).unwrap();
    cpu::evaluate(&y).unwrap();
    assert_eq!(bits(&y), bits(&expected));
}

/// Also within one operation: a product of many tiles counts each of them.
#[test]
fn work_is_counted_while_it_is_done() {
    let random = &mut Random::new(24);
    let weights = Weights::new(random, Storage::Dense(Dtype::Float32), 4096, 64);
    let x = random.normals(&[2, 64]);
    let y = cpu::linear(&plain(&x, &[weights.matrix()])).unwrap();
    let before = cpu::progress();
    y.eval().unwrap();
    // A tile is at most 64 outputs.
    assert!(cpu::progress() - before >= 4096 / 64);
}

/// Inputs may be MLX's own operations, still lazy too.
#[test]
fn mlx_s_lazy_results_are_inputs() {
    let random = &mut Random::new(21);
    let weights = Weights::new(random, Storage::Dense(Dtype::Float32), 20, 32);
    let matrices = [weights.matrix()];
    let (a, b) = (random.normals(&[4, 32]), random.normals(&[4, 32]));
    let sum = &a + &b;
    sum.eval().unwrap();
    let expected = bits(&cpu::linear(&plain(&sum, &matrices)).unwrap());
    let found = cpu::linear(&plain(&(&a + &b), &matrices)).unwrap();
    // And the other way round: MLX's operations on ours.
    let zero = &found - &found;
    assert_eq!(bits(&found), expected);
    assert!(bits(&zero).iter().all(|&bits| bits == 0));
    // MLX's have to be computed first; then the operations on them, and what is not theirs at all.
    let of_lazy = cpu::linear(&plain(&(&a + &b), &matrices)).unwrap();
    cpu::evaluate(&of_lazy).unwrap();
    assert_eq!(bits(&of_lazy), expected);
    let plain_sum = &a + &b;
    cpu::evaluate(&plain_sum).unwrap();
    assert_eq!(bits(&plain_sum), bits(&sum));
}

#[test]
fn products_that_do_not_fit_are_refused() {
    let random = &mut Random::new(22);
    let storage = Storage::Affine { bits: 4, group: 32, scales: Dtype::Float16 };
    let weights = Weights::new(random, storage, 8, 64);
    let matrix = weights.matrix();
    let quantization = matrix.quantization.unwrap();
    let Quantization::Affine { scales, biases, group_size, bits } = quantization else { unreachable!() };
    let (x, wide_x) = (random.normals(&[3, 64]), random.normals(&[3, 96]));
    let refused = |job: &Linear<'_>| cpu::linear(job).unwrap_err().what().to_owned();
    let one = [matrix];

    assert!(refused(&plain(&wide_x, &one)).contains("differ in length"));
    assert!(refused(&plain(&x.as_dtype(Dtype::Float16).unwrap(), &one)).contains("float32"));
    assert!(refused(&Linear { gate: Some(cpu::Gate::Silu), ..plain(&x, &one) }).contains("two matrices"));
    assert!(refused(&Linear { norm: Some((&wide_x, 1e-5)), ..plain(&x, &one) }).contains("norm"));
    assert!(refused(&Linear { residual: Some(&x), ..plain(&x, &one) }).contains("residual"));
    let unknown = Quantization::Affine { scales, biases, group_size, bits: 7 };
    let seven_bits = [Matrix { quantization: Some(unknown), ..matrix }];
    assert!(refused(&plain(&x, &seven_bits)).contains("2, 3, 4, 5, 6 or 8 bits"));
    let group = Quantization::Affine { scales, biases, group_size: 16, bits };
    let small_group = [Matrix { quantization: Some(group), ..matrix }];
    assert!(refused(&plain(&x, &small_group)).contains("32, 64 or 128"));
    let scales = Quantization::Affine { scales: &x, biases, group_size, bits };
    let other_scales = [Matrix { quantization: Some(scales), ..matrix }];
    assert!(refused(&plain(&x, &other_scales)).contains("one scale a group"));
    let floats = Quantization::Mxfp4 { scales: biases };
    let mxfp4 = [Matrix { quantization: Some(floats), ..matrix }];
    assert!(refused(&plain(&x, &mxfp4)).contains("uint8"));
}

/// What is not contiguous shows only when there are data.
#[test]
fn inputs_that_are_not_contiguous_are_refused_when_evaluated() {
    let random = &mut Random::new(23);
    let weights = Weights::new(random, Storage::Dense(Dtype::Float32), 8, 64);
    let x = random.normals(&[64, 3]);
    let turned = x.t();
    turned.eval().unwrap();
    let refused = |job: &Linear<'_>| {
        let error = cpu::linear(job).unwrap().eval().unwrap_err();
        assert!(error.what().contains("not contiguous"), "{error}");
        let error = cpu::evaluate(&cpu::linear(job).unwrap()).unwrap_err();
        assert!(error.what().contains("not contiguous"), "{error}");
    };
    refused(&plain(&turned, &[weights.matrix()]));

    // Every other value of twice as many.
    let halved = |array: &Array| array.reshape(&[-1, 2]).unwrap().try_index((.., 0)).unwrap();
    let (x, norm, bias) = (random.normals(&[3, 64]), random.normals(&[128]), random.normals(&[16]));
    refused(&Linear { norm: Some((&halved(&norm), 1e-5)), ..plain(&x, &[weights.matrix()]) });
    let bias = halved(&bias);
    refused(&plain(&x, &[Matrix { bias: Some(&bias), ..weights.matrix() }]));
    // Experts keep what has been evaluated, and check it at once.
    bias.eval().unwrap();
    let matrix = [Matrix { bias: Some(&bias), ..evaluated(&weights) }];
    let error = ExpertSet::new([&matrix, &matrix, &matrix], 64, 8).unwrap_err();
    assert!(error.what().contains("not contiguous"), "{error}");
}

#[test]
fn norms_that_do_not_fit_are_refused() {
    let random = &mut Random::new(25);
    let (x, weight) = (random.normals(&[3, 64]), random.normals(&[32]));
    let refused = |part: NormedPart<'_>| {
        let job = Rowwise { x: &x, parts: &[part], factor: 1.0, soft_cap: None, gelu: false, residual: None };
        cpu::rowwise(&job).unwrap_err().what().to_owned()
    };
    let part =
        NormedPart { kind: NormKind::Layer, weight: &weight, bias: Some(&weight), eps: 1e-5, count: 2 };
    assert!(refused(NormedPart { kind: NormKind::Rms, ..part }).contains("an RMS norm has no bias"));
    assert!(refused(NormedPart { count: 3, ..part }).contains("shorter"));
    assert!(refused(NormedPart { count: 0, ..part }).contains("pieces"));
    assert!(refused(NormedPart { bias: Some(&x), ..part }).contains("like its weight"));
}

/// With MLX's own words.
#[test]
fn packings_say_why_they_are_refused() {
    let random = &mut Random::new(26);
    let error = MicroScaling::Mxfp4.quantize(&random.normals(&[3, 33])).unwrap_err();
    assert!(error.what().starts_with("MLX can't pack mxfp4: ") && error.what().contains("33"), "{error}");
}

#[test]
fn steps_that_do_not_fit_the_pool_are_refused() {
    mlx_ext::init().unwrap();
    let shape = KvShape { layers: 1, kv_heads: 1, head_dim: 8, dtype: KvDtype::Float32 };
    assert!(KvPool::new(KvShape { head_dim: 12, ..shape }, 4).is_err());
    assert!(KvPool::new(shape, 0).is_err());
    let pool = KvPool::new(shape, 4).unwrap();
    let row = |new_tokens, position, blocks| StepRow { new_tokens, position, blocks };
    let refused = |rows: &[StepRow<'_>]| pool.step(rows).unwrap_err().what().to_owned();
    assert!(refused(&[row(0, 0, &[0])]).contains("no new tokens"));
    assert!(refused(&[row(1, 32, &[0])]).contains("too few blocks"));
    assert!(refused(&[row(1, 0, &[4])]).contains("in the pool"));
    assert!(refused(&[row(1, 0, &[-1])]).contains("in the pool"));
    assert!(refused(&[row(1, 32, &[4, 0])]).contains("in the pool"));
    assert!(pool.step(&[row(1, 32, &[3, 1]), row(5, 0, &[0])]).is_ok());
    // A block that nothing is written to may be several rows'; one that is written to may not.
    assert!(pool.step(&[row(1, 32, &[3, 1]), row(5, 32, &[3, 0]), row(1, 33, &[3, 2])]).is_ok());
    let exclusive = "in use by one row only";
    assert!(refused(&[row(1, 0, &[2]), row(1, 0, &[2])]).contains(exclusive), "both write");
    assert!(
        refused(&[row(1, 32, &[3, 1]), row(1, 32, &[1, 2])]).contains(exclusive),
        "one writes, one reads"
    );
    assert!(refused(&[row(1, 31, &[3]), row(1, 32, &[3, 2])]).contains(exclusive), "it is not full yet");
    assert!(refused(&[row(33, 0, &[1, 1])]).contains(exclusive), "twice in a row's own table");
    // What lies beyond a row's tokens is not used.
    assert!(pool.step(&[row(1, 0, &[2, 3]), row(1, 0, &[3])]).is_ok());
    assert!(pool.copy_block(0, 4).is_err() && pool.copy_block(-1, 0).is_err());
}

/// The window of the query at 70 begins at 31, or with a token less at 32.
#[test]
fn a_layer_that_sees_what_is_not_there_is_refused() {
    mlx_ext::init().unwrap();
    let shape = KvShape { layers: 1, kv_heads: 1, head_dim: 8, dtype: KvDtype::Float32 };
    let pool = KvPool::new(shape, 4).unwrap();
    let none = KvPool::NO_BLOCK;
    assert!(pool.step(&[StepRow { new_tokens: 1, position: 70, blocks: &[none, none, none] }]).is_err());
    let step = pool.step(&[StepRow { new_tokens: 1, position: 70, blocks: &[none, 0, 1] }]).unwrap();
    let random = &mut Random::new(28);
    let (qkv, table) = (random.normals(&[1, 24]), random.normals(&[71, 4]));
    let attend = |window, chunked| {
        step.attend(&cpu::Attention {
            qkv: &qkv,
            cos: &table,
            sin: &table,
            layer: 0,
            heads: 1,
            query_scale: None,
            sinks: None,
            scale: 1.0,
            soft_cap: None,
            window,
            chunked,
            traditional: false,
            appends: true,
        })
    };
    assert!(attend(Some(39), false).is_ok() && attend(Some(64), true).is_ok());
    for (window, chunked) in [(None, false), (Some(40), false), (Some(71), true)] {
        let error = attend(window, chunked).unwrap_err();
        assert!(error.what().contains("are not there"), "{error}");
    }
}
