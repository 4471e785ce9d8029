//! Files of every architecture become what mlx-lm's models of them have: the same tensors under the same names.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use artifact_store::{Artifact, Dtype, FileRole, ImportOptions, Quantization, Store, StoreError, Transform};
use proptest::prelude::*;
use serde_json::Value;
use support::{
    Gguf, GgufTensor, float, import_bytes, import_gguf, number, stored_tensor, text, tiny_llama, vectors,
};
use tempfile::TempDir;

/// Components of a head in the recorded models.
const HEAD: usize = 32;

/// A tensor as it was before the file was written, and the recorded names and shape.
struct Original {
    name: String,
    place: String,
    shape: Vec<u64>,
    values: Vec<f32>,
}

fn recorded() -> serde_json::Map<String, Value> {
    vectors("architectures.json").as_object().unwrap().clone()
}

fn originals(model: &Value) -> Vec<Original> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let tensors = model["tensors"].as_array().unwrap().iter().enumerate();
    tensors
        .map(|(index, tensor)| {
            let shape: Vec<u64> =
                tensor["shape"].as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap()).collect();
            // Every element of the model is another whole number.
            let values =
                (0..shape.iter().product()).map(|i: u64| (index as u64 * 50_000 + i) as f32).collect();
            Original { name: text(&tensor["name"]), place: text(&tensor["gguf"]), shape, values }
        })
        .collect()
}

/// What llama.cpp's converter writes of it.
fn written(original: &Original, architecture: &str) -> GgufTensor {
    let Original { name, place, shape, values } = original;
    let rotated = ["q_proj", "k_proj"].iter().any(|module| name.contains(module));
    let values = match architecture {
        "llama" | "smollm3" if rotated => {
            // Each head as (2, half) rows, swapped.
            let row = values.len() / shape[0] as usize;
            let head = |head: &[f32]| -> Vec<f32> {
                let rows: Vec<&[f32]> = head.chunks(row).collect();
                (0..HEAD / 2).flat_map(|i| [rows[i], rows[i + HEAD / 2]]).flatten().copied().collect()
            };
            values.chunks(HEAD * row).flat_map(head).collect()
        }
        "gemma2" | "gemma3" if name.ends_with("norm.weight") => {
            values.iter().map(|value| value + 1.0).collect()
        }
        _ => values.clone(),
    };
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    GgufTensor { name: place.clone(), dims: shape.iter().rev().copied().collect(), kind: 0, data }
}

/// A file of the recorded model, with the tokens of [`tiny_llama`].
fn file(model: &Value) -> Gguf {
    let architecture = model["architecture"].as_str().unwrap();
    let mut gguf = tiny_llama();
    gguf.metadata.retain(|(key, _)| !key.starts_with("llama."));
    gguf.set("general.architecture", text(architecture));
    for (setting, value) in model["settings"].as_object().unwrap() {
        let value = match value {
            Value::String(value) => text(value),
            Value::Number(value) if value.is_u64() => number(value.as_u64().unwrap() as u32),
            other => float(other.as_f64().unwrap() as f32),
        };
        gguf.set(&format!("{architecture}.{setting}"), value);
    }
    gguf.tensors = originals(model).iter().map(|original| written(original, architecture)).collect();
    gguf
}

fn refusal(gguf: &Gguf) -> String {
    import_bytes(TempDir::new().unwrap().path(), &gguf.bytes()).unwrap_err().to_string()
}

fn check_tensors(name: &str, model: &Value, artifact: &Artifact) {
    let originals = originals(model);
    assert_eq!(artifact.manifest.tensors.len(), originals.len(), "{name}");
    for original in originals {
        let found = stored_tensor(artifact, &original.name);
        let bytes: Vec<u8> = original.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert!(found == (Dtype::F32, original.shape, bytes), "{name}: {}", original.name);
    }
}

/// Every setting of the original configuration, but for those in which two ways of saying the same differ.
fn check_config(name: &str, model: &Value, artifact: &Artifact) {
    let found = &artifact.manifest.config;
    for (setting, expected) in model["config"].as_object().unwrap() {
        let value = match setting.as_str() {
            // Said by `layer_types` here.
            "sliding_window_pattern" => continue,
            // What mlx-lm has as defaults.
            "decoder_sparse_step" | "mlp_only_layers" if found[setting].is_null() => continue,
            _ => &found[setting],
        };
        let same = value == expected || value.as_f64().is_some_and(|value| Some(value) == expected.as_f64());
        assert!(same, "{name}: `{setting}` is {value}, not {expected}");
    }
}

#[test]
fn every_architecture_has_the_tensors_and_settings_of_the_original() {
    for (name, model) in recorded() {
        let (_folder, artifact) = import_gguf(&file(&model));
        check_tensors(&name, &model, &artifact);
        check_config(&name, &model, &artifact);
        let transforms = &artifact.manifest.transforms;
        assert_eq!(transforms.contains(&Transform::SubtractOne), name.starts_with("gemma"), "{name}");
        let permuted = ["llama", "mistral", "mixtral", "smollm3"].contains(&&*name);
        assert_eq!(transforms.contains(&Transform::UnpermuteRope), permuted, "{name}");
    }
}

#[test]
fn a_tensor_that_is_missing_unknown_or_misshapen_is_refused_by_name() {
    for (name, model) in recorded() {
        let whole = file(&model);
        for place in ["blk.1.attn_output.weight", "output_norm.weight"] {
            let mut gguf = whole.clone();
            gguf.tensors.retain(|tensor| tensor.name != place);
            assert!(refusal(&gguf).contains(&format!("`{place}` is missing")), "{name}");
        }
        let mut gguf = whole.clone();
        gguf.tensors[1].name = "blk.1.surprise.weight".to_owned();
        assert!(refusal(&gguf).contains("`blk.1.surprise.weight`"), "{name}");
        let mut gguf = whole;
        let norm = gguf.tensors.iter_mut().find(|tensor| tensor.name == "output_norm.weight").unwrap();
        (norm.dims, norm.data) = (vec![64], vec![0; 256]);
        assert!(refusal(&gguf).contains("shape [64]"), "{name}");
    }
}

#[test]
fn other_architectures_are_refused_with_those_that_can_be_imported() {
    let mut gguf = tiny_llama();
    gguf.set("general.architecture", text("rwkv7"));
    let reason = refusal(&gguf);
    assert!(reason.contains("`rwkv7`") && reason.contains("safetensors folder"), "{reason}");
    for model in recorded().values() {
        assert!(reason.contains(&format!("`{}`", model["architecture"].as_str().unwrap())), "{reason}");
    }
}

#[test]
fn settings_that_would_change_the_answers_are_refused_by_name() {
    let models = recorded();
    for (name, setting, value) in [
        ("llama", "logit_scale", float(0.5)),
        ("llama", "attention.causal", support::boolean(false)),
        ("llama", "rope.dimension_count", number(16)),
        ("qwen3", "attention.scale", float(0.3)),
        ("qwen3", "final_logit_softcapping", float(30.0)),
        ("gemma3", "final_logit_softcapping", float(30.0)),
        ("qwen3moe", "expert_shared_count", number(1)),
        ("qwen3moe", "expert_used_count", number(5)),
        ("qwen3moe", "expert_count", number(u32::MAX)),
        ("gpt-oss", "rope.scaling.yarn_log_multiplier", float(0.1)),
        ("gpt-oss", "attention.sliding_window", number(0)),
        ("gemma3", "attention.sliding_window_pattern", support::numbers(&[1, 0, 1])),
        ("gemma3", "attention.sliding_window_pattern", text("2")),
        ("phi3", "rope.dimension_count", number(34)),
    ] {
        let mut gguf = file(&models[name]);
        gguf.set(&format!("{}.{setting}", models[name]["architecture"].as_str().unwrap()), value);
        let reason = refusal(&gguf);
        let word = setting.rsplit('.').next().unwrap();
        assert!(
            reason.contains(word) || word == "dimension_count" && reason.contains("rotated"),
            "{setting}: {reason}"
        );
    }
}

#[test]
fn windows_may_be_said_for_each_layer() {
    let mut gguf = file(&recorded()["gemma3"]);
    let kinds = |gguf: &Gguf| import_gguf(gguf).1.manifest.config["layer_types"].clone();
    gguf.set("gemma3.attention.sliding_window_pattern", support::numbers(&[0, 1]));
    assert_eq!(kinds(&gguf), serde_json::json!(["full_attention", "sliding_attention"]));
    gguf.set("gemma3.attention.sliding_window", number(0));
    assert_eq!(kinds(&gguf), serde_json::json!(["full_attention", "full_attention"]));
}

#[test]
fn normalizations_to_which_1_was_added_are_float32() {
    let mut gguf = file(&recorded()["gemma2"]);
    gguf.replace_tensor("output_norm.weight", 1, vec![0; 256]);
    assert!(refusal(&gguf).contains("`output_norm.weight` has type F16"));
}

fn factors(name: &str, factors: &[f32]) -> GgufTensor {
    let data = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
    GgufTensor { name: format!("{name}.weight"), dims: vec![factors.len() as u64], kind: 0, data }
}

#[test]
fn lists_of_factors_become_longrope() {
    let mut gguf = file(&recorded()["phi3"]);
    gguf.set("phi3.rope.dimension_count", number(24));
    gguf.set("phi3.rope.scaling.attn_factor", float(1.19));
    gguf.tensors.push(factors("rope_factors_long", &[1.1; 12]));
    assert!(refusal(&gguf).contains("`rope_factors_short.weight` is missing"));
    gguf.tensors.push(factors("rope_factors_short", &[1.0; 12]));
    let config = import_gguf(&gguf).1.manifest.config;
    let scaling = serde_json::json!({
        "rope_type": "longrope", "long_factor": vec![1.1; 12], "short_factor": vec![1.0; 12],
        "original_max_position_embeddings": 64, "attention_factor": 1.19,
    });
    assert_eq!((&config["rope_scaling"], &config["partial_rotary_factor"]), (&scaling, &0.75.into()));
    for bad in [&[1.0; 11][..], &[f32::NAN; 12], &[0.0; 12]] {
        gguf.tensors.pop();
        gguf.tensors.push(factors("rope_factors_short", bad));
        assert!(refusal(&gguf).contains("rope_factors_short"));
    }
}

#[test]
fn experts_of_small_floats_are_repacked() {
    let mut gguf = file(&recorded()["gpt-oss"]);
    let recorded = &vectors("gguf.json")["MXFP4"]["blocks"];
    let recorded = recorded.as_str().unwrap();
    let block: Vec<u8> =
        (0..34).step_by(2).map(|at| u8::from_str_radix(&recorded[at..at + 2], 16).unwrap()).collect();
    // 4 experts of 96 rows of 128.
    gguf.replace_tensor("blk.0.ffn_up_exps.weight", 39, block.repeat(4 * 96 * 4));
    let (_folder, artifact) = import_gguf(&gguf);
    let module = "model.layers.0.mlp.experts.up_proj";
    let (dtype, shape, elements) = stored_tensor(&artifact, &format!("{module}.weight"));
    assert_eq!((dtype, &shape[..]), (Dtype::U32, &[4, 96, 16][..]));
    let (dtype, shape, scales) = stored_tensor(&artifact, &format!("{module}.scales"));
    assert_eq!((dtype, &shape[..]), (Dtype::U8, &[4, 96, 4][..]));
    assert!(scales.iter().all(|scale| *scale == block[0]));
    let code = |i: usize| elements[i / 2] >> (4 * (i % 2)) & 15;
    for i in 0..32 {
        assert_eq!(code(i), block[1 + i % 16] >> (4 * (i / 16)) & 15, "{i}");
    }
    let said = &artifact.manifest.config["quantization"];
    assert_eq!(said, &serde_json::json!({ "group_size": 32, "bits": 4, "mode": "mxfp4" }));
    assert!(artifact.manifest.transforms.contains(&Transform::RepackMicroScaled));
}

#[test]
fn stacked_experts_are_quantized_like_matrices() {
    let gguf = file(&recorded()["qwen3moe"]);
    let folder = TempDir::new().unwrap();
    let source = gguf.write(&folder.path().join("moe.gguf"));
    let store = Store::open(folder.path().join("store")).unwrap();
    let options = ImportOptions { quantize: Quantization::new(4, 32) };
    store.import_with(&source, Some("moe"), &options, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    let artifact = store.resolve("moe").unwrap();
    let experts = "model.layers.1.mlp.switch_mlp.down_proj";
    assert_eq!(stored_tensor(&artifact, &format!("{experts}.weight")).1, [4, 128, 8]);
    assert_eq!(stored_tensor(&artifact, &format!("{experts}.scales")).1, [4, 128, 2]);
}

/// A metadata value of any kind, mostly one at an end of what its type holds.
fn extreme() -> impl Strategy<Value = Vec<u8>> {
    let numbers = [0, 1, 2, 3, 31, 33, 4096, 4097, 1 << 24, (1 << 24) + 1, u32::MAX];
    let floats = [0.0, -1.0, 1e-38, 1e38, f32::INFINITY, f32::NAN];
    prop_oneof![
        prop::sample::select(numbers.to_vec()).prop_map(number),
        any::<u32>().prop_map(number),
        prop::sample::select(floats.to_vec()).prop_map(float),
        any::<u64>().prop_map(|value| [&10_u32.to_le_bytes()[..], &value.to_le_bytes()].concat()),
        any::<i64>().prop_map(|value| [&11_u32.to_le_bytes()[..], &value.to_le_bytes()].concat()),
        any::<bool>().prop_map(support::boolean),
        prop::collection::vec(any::<u32>(), 0..4).prop_map(|values| support::numbers(&values)),
        prop::sample::select(vec!["yarn", "linear", "longrope", "none", "", "x"]).prop_map(text),
    ]
}

/// Settings that some architecture reads beside those that the recorded models have.
const MORE_SETTINGS: [&str; 9] = [
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.freq_base_swa",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "expert_count",
    "attn_logit_softcapping",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Either it is refused as a source, or what was stored can be read back as the manifest says.
    #[test]
    fn hostile_settings_never_panic(
        model in any::<prop::sample::Index>(), changes in prop::collection::vec((any::<prop::sample::Index>(), extreme()), 1..4),
    ) {
        let models = recorded();
        let model = model.get(&models.values().collect::<Vec<_>>()).to_owned();
        let architecture = model["architecture"].as_str().unwrap();
        let own = model["settings"].as_object().unwrap().keys().map(String::as_str);
        let settings: Vec<&str> = own.chain(MORE_SETTINGS).collect();
        let mut gguf = file(model);
        for (setting, value) in changes {
            gguf.set(&format!("{architecture}.{}", setting.get(&settings)), value);
        }
        let folder = TempDir::new().unwrap();
        match import_bytes(folder.path(), &gguf.bytes()) {
            Ok((store, _)) => {
                let artifact = store.resolve("tiny").unwrap();
                for (_, file) in artifact.files(FileRole::Weights) {
                    artifact.open_blob(file).unwrap();
                }
            }
            Err(error) => prop_assert!(matches!(error, StoreError::BadSource { .. }), "{}", error),
        }
    }
}
