//! Tiny random llamas against plain f64 arithmetic, and what a step promises.

#![allow(clippy::unwrap_used)]

mod faults;
mod forms;
mod tiny;

use std::{
    collections::BTreeMap,
    ops::{ControlFlow, Range},
    path::Path,
};

use artifact_store::{Artifact, Store};
use serde_json::{Value, json};
use tempfile::TempDir;
use tiny::{Dense, Spec, SplitMix, Tiny, reference};
use worker::model::{Kernels, KvBudget, Logits, Model, ModelError, SequenceKv, StepInput, StepRow};

/// A model in a store of its own.
struct Loaded {
    model: Model,
    _artifact: Artifact,
    _folder: TempDir,
}

fn import(tiny: &Tiny) -> (Artifact, TempDir) {
    mlx_ext::init().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    tiny.write(&source);
    (import_folder(&folder.path().join("store"), &source), folder)
}

fn import_folder(store: &Path, source: &Path) -> Artifact {
    let store = Store::open(store).unwrap();
    store.import(source, Some("tiny"), &mut |_| ControlFlow::Continue(())).unwrap();
    store.resolve("tiny").unwrap()
}

/// Room for every test here.
const BUDGET: KvBudget = KvBudget { bytes: 64 << 20, sequences: 16, half: false };

/// What runs on this machine: our own kernels on a CPU, MLX's on a GPU.
fn here() -> Kernels {
    Kernels::of(mlx_ext::init().unwrap())
}

/// Whether results do not depend on what else is computed. A GPU's kernels are chosen by the batch's size.
fn is_exact() -> bool {
    here() == Kernels::Own
}

fn load(tiny: &Tiny) -> Loaded {
    load_with(tiny, here())
}

fn load_with(tiny: &Tiny, kernels: Kernels) -> Loaded {
    let (artifact, folder) = import(tiny);
    let model = Model::load(&artifact, kernels, BUDGET).unwrap();
    Loaded { model, _artifact: artifact, _folder: folder }
}

fn load_error(tiny: &Tiny) -> ModelError {
    let (artifact, _folder) = import(tiny);
    Model::load(&artifact, here(), BUDGET).err().unwrap()
}

/// Runs one sequence's new tokens alone.
fn alone(model: &Model, kv: &mut SequenceKv, tokens: &[u32]) -> Vec<f32> {
    let mut input = StepInput { rows: vec![StepRow::last_logits(tokens, kv)] };
    model.forward(&mut input).unwrap().unwrap().row(0).to_vec()
}

fn largest_difference(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(f, e)| (f64::from(*f) - e).abs()).fold(0.0, f64::max)
}

/// Both kinds of kernels against the reference.
fn agrees_with_reference(spec: Spec, tolerance: f64) {
    // Before they meet quantized weights, our kernels round activations to 16 bits: by up to 2^-16 of a group's largest.
    // Over some ten products in a row that is a few 1e-4 of logits near 4; without quantization nothing is rounded.
    // On a GPU everything has the 16 bits of the scales or weights.
    let rounded = match (spec.quantization, spec.dense) {
        (None, Dense::F32) => 1.0,
        _ if !is_exact() => 1000.0,
        (None, Dense::Bf16) => 1.0,
        (Some(_), _) => 10.0,
    };
    agrees_with_reference_on(here(), spec.clone(), rounded * tolerance);
    agrees_with_reference_on(Kernels::MlxFloat32, spec, tolerance);
}

/// Prefill in chunks and decode token by token, against the reference at every boundary.
fn agrees_with_reference_on(kernels: Kernels, spec: Spec, tolerance: f64) {
    let tiny = Tiny::new(spec.clone(), 1);
    let loaded = load_with(&tiny, kernels);
    let tokens = SplitMix(2).tokens(23, spec.vocab);
    let expected = reference::logits(&tiny, &tokens);
    let mut kv = loaded.model.new_kv();
    for chunk in [&tokens[..9], &tokens[9..20], &tokens[20..21], &tokens[21..22], &tokens[22..]] {
        let found = alone(&loaded.model, &mut kv, chunk);
        let expected = &expected[kv.len() - 1];
        let difference = largest_difference(&found, expected);
        assert!(difference < tolerance, "{difference} after {} tokens of {spec:?}, {kernels:?}", kv.len());
    }
}

#[test]
fn dense_agrees_with_reference() {
    agrees_with_reference(Spec::default(), 1e-4);
}

#[test]
fn dense_bfloat16_agrees_with_reference() {
    agrees_with_reference(Spec { dense: Dense::Bf16, ..Spec::default() }, 1e-4);
}

#[test]
fn four_bits_agree_with_reference() {
    agrees_with_reference(Spec { quantization: Some((32, 4)), kv_heads: 2, ..Spec::default() }, 1e-4);
}

#[test]
fn eight_bits_and_an_own_head_agree_with_reference() {
    agrees_with_reference(Spec { quantization: Some((64, 8)), tied: false, ..Spec::default() }, 1e-4);
}

#[test]
fn biases_and_odd_head_sizes_agree_with_reference() {
    let spec = Spec { bias: true, heads: 6, kv_heads: 3, head_dim: 10, tied: false, ..Spec::default() };
    agrees_with_reference(spec, 1e-4);
}

#[test]
fn llama3_rope_agrees_with_reference() {
    // A context of 40 puts wavelengths on the ramp and on both sides of it.
    let rope_scaling = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 40,
    });
    agrees_with_reference(Spec { rope_theta: 500.0, rope_scaling, kv_heads: 1, ..Spec::default() }, 1e-4);
}

#[test]
fn linear_rope_agrees_with_reference() {
    let rope_scaling = json!({ "rope_type": "linear", "factor": 4.0 });
    agrees_with_reference(Spec { rope_scaling, ..Spec::default() }, 1e-4);
}

#[test]
fn room_grows_without_a_trace() {
    let spec = Spec { layers: 1, ..Spec::default() };
    let tiny = Tiny::new(spec.clone(), 3);
    let loaded = load(&tiny);
    let tokens = SplitMix(4).tokens(260, spec.vocab);
    let expected = reference::logits(&tiny, &tokens);
    let mut kv = loaded.model.new_kv();
    alone(&loaded.model, &mut kv, &tokens[..254]);
    for (position, token) in tokens.iter().enumerate().skip(254) {
        let found = alone(&loaded.model, &mut kv, &[*token]);
        assert!(largest_difference(&found, &expected[position]) < 1e-4, "at {position}");
    }
    assert_eq!(kv.len(), 260);
}

#[test]
fn a_truncated_sequence_goes_on_as_if_it_had_never_been_longer() {
    let tiny = Tiny::new(Spec { quantization: Some((32, 4)), ..Spec::default() }, 5);
    let model = load(&tiny).model;
    let mut kv = model.new_kv();
    alone(&model, &mut kv, &[1, 2, 3, 4, 5]);
    let first = alone(&model, &mut kv, &[6]);
    alone(&model, &mut kv, &[7, 8, 9]);
    kv.truncate(5);
    assert_eq!(kv.len(), 5);
    assert_eq!(alone(&model, &mut kv, &[6]), first);
    kv.truncate(100);
    assert_eq!(kv.len(), 6, "truncating never lengthens");
}

/// Sequences of different lengths, all prefilled alone.
fn prefilled(model: &Model, count: usize, vocab: usize) -> Vec<SequenceKv> {
    let prefill = |i: usize| {
        let mut kv = model.new_kv();
        alone(model, &mut kv, &SplitMix(100 + i as u64).tokens(3 + 5 * i, vocab));
        kv
    };
    (0..count).map(prefill).collect()
}

/// Eight sequences decode and two prefill in one step, in mixed order; each must get the very bits
/// that it gets alone.
fn company_changes_no_bit(spec: Spec) {
    if !is_exact() {
        return;
    }
    let tiny = Tiny::new(spec.clone(), 6);
    let model = load(&tiny).model;
    let mut random = SplitMix(7);
    let mut inputs: Vec<Vec<u32>> = (0..8).map(|_| random.tokens(1, spec.vocab)).collect();
    inputs.insert(3, random.tokens(17, spec.vocab));
    inputs.push(random.tokens(40, spec.vocab));

    let mut apart = prefilled(&model, inputs.len(), spec.vocab);
    let mut expected: Vec<Vec<f32>> = Vec::new();
    for _ in 0..2 {
        let step = apart.iter_mut().zip(&inputs).map(|(kv, tokens)| alone(&model, kv, tokens));
        expected.extend(step.collect::<Vec<_>>());
    }

    let mut together = prefilled(&model, inputs.len(), spec.vocab);
    let mut found: Vec<Vec<f32>> = Vec::new();
    for _ in 0..2 {
        let rows = together.iter_mut().zip(&inputs).map(|(kv, tokens)| StepRow::last_logits(tokens, kv));
        let logits = model.forward(&mut StepInput { rows: rows.collect() }).unwrap().unwrap();
        assert_eq!(logits.rows(), inputs.len());
        found.extend((0..logits.rows()).map(|row| logits.row(row).to_vec()));
    }
    for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let same = found.iter().zip(expected).all(|(f, e)| f.to_bits() == e.to_bits());
        assert!(same, "row {row} of {spec:?}");
    }
}

#[test]
fn company_changes_no_bit_of_dense_products() {
    company_changes_no_bit(Spec { kv_heads: 2, tied: false, ..Spec::default() });
}

#[test]
fn company_changes_no_bit_of_quantized_products() {
    company_changes_no_bit(Spec { quantization: Some((32, 4)), kv_heads: 2, ..Spec::default() });
    company_changes_no_bit(Spec { quantization: Some((64, 8)), kv_heads: 2, bias: true, ..Spec::default() });
}

#[test]
fn company_changes_no_bit_of_wide_products() {
    // Wide enough for kernels to block their loops and to use their threads.
    company_changes_no_bit(Spec {
        hidden: 576,
        inner: 1536,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        ..Spec::default()
    });
}

/// A prompt gives the same bits however it is cut, down to single tokens.
#[test]
fn cuts_change_no_bit() {
    if !is_exact() {
        return;
    }
    for quantization in [None, Some((32, 4)), Some((64, 8))] {
        let tiny = Tiny::new(Spec { quantization, kv_heads: 2, ..Spec::default() }, 11);
        let model = load(&tiny).model;
        let tokens = SplitMix(12).tokens(90, 101);
        let whole = alone(&model, &mut model.new_kv(), &tokens);
        for cut in [1, 7, 32, 50] {
            let mut kv = model.new_kv();
            let last = tokens.chunks(cut).map(|chunk| alone(&model, &mut kv, chunk)).last().unwrap();
            assert!(last.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits()), "cut at {cut}");
        }
    }
}

#[test]
fn keys_and_values_in_float16_stay_near_and_take_half_the_room() {
    if !is_exact() {
        return;
    }
    let spec = Spec { kv_heads: 2, ..Spec::default() };
    let tiny = Tiny::new(spec.clone(), 13);
    let (artifact, _folder) = import(&tiny);
    let load = |half| Model::load(&artifact, here(), KvBudget { half, ..BUDGET }).unwrap();
    let (whole, half) = (load(false), load(true));
    let tokens = SplitMix(14).tokens(70, spec.vocab);
    let expected = reference::logits(&tiny, &tokens);
    let found = alone(&half, &mut half.new_kv(), &tokens);
    let difference = largest_difference(&found, &expected[69]);
    // float16 keeps eleven bits: two layers' rounding by 2^-12 of each key and value, logits near 4.
    assert!(difference < 1e-2, "{difference}");
    assert_ne!(found, alone(&whole, &mut whole.new_kv(), &tokens), "nothing was rounded");
    let cut: Vec<f32> = {
        let mut kv = half.new_kv();
        tokens.chunks(9).map(|chunk| alone(&half, &mut kv, chunk)).last().unwrap()
    };
    assert!(cut.iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits()));
    let reserved = BUDGET.sequences * 32;
    assert_eq!(half.kv_tokens() + reserved, 2 * (whole.kv_tokens() + reserved));
}

#[test]
fn only_wanted_logits_come_in_the_order_of_the_rows() {
    let tiny = Tiny::new(Spec::default(), 8);
    let model = load(&tiny).model;
    let inputs: [&[u32]; 4] = [&[1, 2, 3], &[4], &[5, 6], &[7]];
    let forward = |wanted: [Range<usize>; 4]| -> Option<Logits> {
        let mut kvs: Vec<SequenceKv> = inputs.iter().map(|_| model.new_kv()).collect();
        let rows = kvs.iter_mut().zip(inputs).zip(wanted);
        let rows = rows.map(|((kv, tokens), logits)| StepRow { tokens, kv, logits }).collect();
        let logits = model.forward(&mut StepInput { rows }).unwrap();
        assert_eq!(kvs.iter().map(SequenceKv::len).collect::<Vec<_>>(), [3, 1, 2, 1]);
        logits
    };
    let all = forward([0..3, 0..1, 0..2, 0..1]).unwrap();
    let some = forward([1..1, 0..1, 1..2, 0..0]).unwrap();
    let several = forward([1..3, 0..0, 0..1, 0..1]).unwrap();
    assert_eq!((all.rows(), some.rows(), several.rows()), (7, 2, 4));
    assert_eq!([some.row(0), some.row(1)], [all.row(3), all.row(5)]);
    let expected = [all.row(1), all.row(2), all.row(4), all.row(6)];
    assert_eq!([several.row(0), several.row(1), several.row(2), several.row(3)], expected);
    assert!(forward([0..0, 0..0, 0..0, 0..0]).is_none());
}

#[test]
fn input_that_does_not_fit_is_refused_and_changes_nothing() {
    let spec = Spec { context: 8, ..Spec::default() };
    let model = load(&Tiny::new(spec, 9)).model;
    assert_eq!((model.context_length(), model.vocab_size()), (8, 101));
    let mut kv = model.new_kv();
    let before = alone(&model, &mut kv, &[1, 2, 3]);
    let mut refuse = |tokens: &[u32]| {
        let mut other = model.new_kv();
        let rows = vec![StepRow::last_logits(&[1], &mut other), StepRow::last_logits(tokens, &mut kv)];
        let error = model.forward(&mut StepInput { rows }).unwrap_err();
        assert_eq!((other.len(), kv.len()), (0, 3));
        error
    };
    assert!(matches!(refuse(&[]), ModelError::EmptyRow { row: 1 }));
    let mut other = model.new_kv();
    let rows = vec![StepRow { tokens: &[1, 2], kv: &mut other, logits: 1..3 }];
    let error = model.forward(&mut StepInput { rows }).unwrap_err();
    assert!(matches!(error, ModelError::LogitsOutOfRange { row: 0, len: 2, .. }), "{error}");
    let error = refuse(&[5, 101]);
    assert!(matches!(error, ModelError::TokenOutOfRange { row: 1, token: 101, vocab_size: 101 }), "{error}");
    assert!(matches!(refuse(&[1; 6]), ModelError::ContextFull { row: 1, len: 9, limit: 8 }));
    kv.truncate(0);
    assert_eq!(alone(&model, &mut kv, &[1, 2, 3]), before);
}

#[test]
fn weights_that_do_not_fit_the_configuration_are_named() {
    let broken = |change: fn(&mut BTreeMap<String, tiny::Tensor>)| {
        let mut tiny = Tiny::new(Spec { quantization: Some((32, 4)), ..Spec::default() }, 10);
        change(&mut tiny.tensors);
        load_error(&tiny).to_string()
    };
    let missing = broken(|tensors| drop(tensors.remove("model.layers.1.mlp.up_proj.biases")));
    assert!(missing.contains("no tensor `model.layers.1.mlp.up_proj.biases`"), "{missing}");

    let extra = broken(|tensors| {
        let tensor = tensors["model.norm.weight"].clone();
        tensors.insert("model.layers.0.self_attn.q_norm.weight".to_owned(), tensor);
    });
    assert!(extra.contains("no place for: model.layers.0.self_attn.q_norm.weight"), "{extra}");

    let shape = broken(|tensors| tensors.get_mut("model.norm.weight").unwrap().shape = vec![8, 8]);
    assert!(shape.contains("`model.norm.weight` has shape [8, 8]") && shape.contains("[64]"), "{shape}");

    let packing = broken(|tensors| {
        let scales = tensors.get_mut("model.layers.0.mlp.up_proj.scales").unwrap();
        scales.shape = vec![1, scales.shape.iter().product()];
    });
    assert!(packing.contains("model.layers.0.mlp.up_proj.scales"), "{packing}");

    let dtype = broken(|tensors| tensors.get_mut("model.norm.weight").unwrap().dtype = "I32");
    assert!(dtype.contains("`model.norm.weight` holds I32; it has to be F32, F16 or BF16"), "{dtype}");
}

#[test]
fn settings_that_would_be_ignored_are_refused() {
    let refused = |setting: &str, value: Value| {
        let (mut artifact, _folder) = import(&Tiny::new(Spec::default(), 11));
        // Import refuses some of them, which an earlier version stored.
        artifact.manifest.config[setting] = value;
        Model::load(&artifact, Kernels::Own, BUDGET).err().unwrap().to_string()
    };
    let model_type = refused("model_type", json!("gpt_neox"));
    assert!(model_type.contains("`gpt_neox`") && model_type.contains("`llama`"), "{model_type}");
    let rope = refused("rope_scaling", json!({ "rope_type": "yarn", "factor": 4.0 }));
    assert!(rope.contains("`rope_scaling.rope_type` = `yarn`"), "{rope}");
    let no_factor = refused("rope_scaling", json!({ "rope_type": "linear" }));
    assert!(no_factor.contains("rope_scaling.factor"), "{no_factor}");
    assert!(refused("hidden_act", json!("gelu")).contains("`hidden_act` = gelu"));
    assert!(refused("num_key_value_heads", json!(3)).contains("`num_key_value_heads` = 3"));
    assert!(refused("hidden_size", json!("wide")).contains("invalid type"));
    let sliding = refused("layer_types", json!(["full_attention", "sliding_attention"]));
    assert!(sliding.contains("`layer_types` = sliding_attention"), "{sliding}");
    let mode = refused("quantization", json!({ "group_size": 32, "bits": 4, "mode": "mxfp4" }));
    assert!(mode.contains("`quantization.mode` = mxfp4"), "{mode}");
}
