//! What architectures make of configurations that leave much out.

#![allow(clippy::unwrap_used)]

use std::{fs, ops::ControlFlow, path::Path};

use artifact_store::Store;
use serde_json::{Map, Value, json};

use super::*;
use crate::{
    backend::Kernels,
    model::{ModelError, weights::Purpose},
};

/// What transformers 5.24 assumes: by `model_type` and name.
#[test]
fn what_is_not_said_is_as_in_transformers() {
    let context = "max_position_embeddings";
    for (model_type, name, expected) in [
        ("cohere", "rope_theta", 5e5),
        ("cohere", context, 8192.0),
        ("cohere2", "sliding_window", 4096.0),
        ("deepseek_v3", "routed_scaling_factor", 2.5),
        ("deepseek_v3", "n_group", 8.0),
        ("ernie4_5", "rope_theta", 5e5),
        ("ernie4_5", "rms_norm_eps", 1e-5),
        ("ernie4_5", "num_key_value_heads", 2.0),
        ("gemma2", "sliding_window", 4096.0),
        ("gemma2", "query_pre_attn_scalar", 256.0),
        ("gemma3", "sliding_window", 4096.0),
        ("gemma3_text", "rope_local_base_freq", 1e4),
        ("glm4", "partial_rotary_factor", 0.5),
        ("glm4", "rms_norm_eps", 1.5625e-7),
        ("glm4_moe", "partial_rotary_factor", 0.5),
        ("glm4_moe", "rms_norm_eps", 1e-5),
        ("llama4", "rope_theta", 5e5),
        ("ministral3", context, 262_144.0),
        ("mistral", "sliding_window", 4096.0),
        ("mistral", context, 131_072.0),
        ("mistral3", context, 131_072.0),
        ("mixtral", "rope_theta", 1e6),
        ("mixtral", "rms_norm_eps", 1e-5),
        ("olmo2", "rms_norm_eps", 1e-5),
        ("olmo3", "rms_norm_eps", 1e-5),
        ("olmo3", "rope_theta", 5e5),
        ("olmo3", "sliding_window", 4096.0),
        ("olmoe", "rms_norm_eps", 1e-5),
        ("olmoe", context, 4096.0),
        ("phi3", "rms_norm_eps", 1e-5),
        ("phi3", "original_max_position_embeddings", 4096.0),
        ("qwen2", "sliding_window", 4096.0),
        ("qwen3", "head_dim", 128.0),
        ("qwen3_moe", "num_key_value_heads", 4.0),
        ("seed_oss", context, 524_288.0),
        ("smollm3", "rope_theta", 2e6),
    ] {
        let number = |said: &Value| {
            let defaults = find(Some(model_type)).unwrap().defaults;
            Settings::new(said).unwrap().with_defaults(defaults).number(name, 0.0, 1e9).unwrap()
        };
        assert_eq!(number(&json!({})), Some(expected), "{model_type}: {name}");
        assert_eq!(number(&json!({ name: null })), None, "{model_type}: {name}");
    }
    for model_type in ["mixtral", "phi3", "llama", "smollm3", "ministral3"] {
        let defaults = find(Some(model_type)).unwrap().defaults;
        assert!(defaults.iter().all(|(name, _)| *name != "sliding_window"), "{model_type}");
    }
}

/// A safetensors file of zeros.
fn write_zeros(path: &Path, shapes: &Map<String, Value>) {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in shapes {
        let bytes = shape.as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap()).product::<u64>() * 4;
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [end, end + bytes] });
        header.insert(name.clone(), entry);
        end += bytes;
    }
    let mut header = Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(' ', (8 - header.len() % 8) % 8));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.into_bytes());
    file.resize(file.len() + end as usize, 0);
    fs::write(path, file).unwrap();
}

/// The windows of a small model of an architecture, whose configuration has these `changes`; `Value::Null` removes a setting.
fn windows(model_type: &str, changes: &Value) -> Result<Vec<Option<i32>>, ModelError> {
    let references = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/small");
    let reference = fs::read(references.join(format!("{model_type}.json"))).unwrap();
    let mut model = serde_json::from_slice::<Value>(&reference).unwrap()["models"][0].take();
    let config = &mut model["config"];
    for (name, value) in changes.as_object().unwrap() {
        let settings =
            if config["text_config"].is_object() { &mut config["text_config"] } else { &mut *config };
        if value.is_null() {
            settings.as_object_mut().unwrap().remove(name);
        } else {
            settings[name] = value.clone();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("config.json"), config.to_string()).unwrap();
    fs::write(source.join("tokenizer.json"), TOKENIZER).unwrap();
    write_zeros(&source.join("model.safetensors"), model["tensors"].as_object().unwrap());
    let store = Store::open(folder.path().join("store")).unwrap();
    store.import(&source, Some("tiny"), &mut |_| ControlFlow::Continue(())).unwrap();
    let artifact = store.resolve("tiny").unwrap();
    let entry = find(artifact.manifest.architecture())?;
    let config = Settings::new(&artifact.manifest.config)?.with_defaults(entry.defaults);
    let mut weights = Weights::open(&artifact, Kernels::MlxFloat32, Purpose::Generate)?;
    let architecture = (entry.load)(config, &mut weights)?;
    Ok(architecture.attention().into_iter().map(|spec| spec.window).collect())
}

const TOKENIZER: &str = r#"{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#;

/// Which layers see a window, of configurations that say it and of such that leave it out.
#[test]
fn every_architecture_has_its_own_rule_of_windows() {
    mlx_ext::init().unwrap();
    let kinds = |kinds: &[&str]| json!({ "layer_types": kinds, "sliding_window": 16 });
    let (slides, sees_all) = ("sliding_attention", "full_attention");
    let none = json!({ "sliding_window": null, "layer_types": null, "sliding_window_pattern": null });
    let (w, d) = (Some(16), Some(4096));
    let own = |window: i32| json!({ "sliding_window": window, "layer_types": null });
    for (model_type, changes, expected) in [
        // A layer's number is counted from 0; small models have two to four.
        ("llama", own(1 << 20), &[None; 2][..]),
        ("llama", kinds(&[slides, sees_all]), &[w, None]),
        ("mistral", none.clone(), &[d, d]),
        ("mistral", own(16), &[w, w]),
        ("mixtral", none.clone(), &[None, None]),
        ("mixtral", own(16), &[w, w]),
        ("phi3", none.clone(), &[None, None]),
        ("phi3", own(16), &[w, w]),
        (
            "qwen2",
            json!({ "use_sliding_window": true, "max_window_layers": 1, "sliding_window": null }),
            &[None, d],
        ),
        ("qwen2", json!({ "use_sliding_window": false, "max_window_layers": 0 }), &[None, None]),
        (
            "qwen3",
            json!({ "use_sliding_window": true, "max_window_layers": 1, "sliding_window": 16 }),
            &[None, w],
        ),
        ("gemma2", none.clone(), &[d, None]),
        ("gemma3_text", none.clone(), &[d, d, d, d]),
        ("gemma3_text", json!({ "sliding_window_pattern": 2, "sliding_window": 16 }), &[w, None, w, None]),
        ("cohere2", none.clone(), &[d, d, d, None]),
        ("cohere2", json!({ "sliding_window_pattern": 2, "sliding_window": 16 }), &[w, None, w, None]),
        ("olmo3", none.clone(), &[d, d, d, None]),
        ("olmo3", kinds(&[sees_all, slides, sees_all, slides]), &[None, w, None, w]),
        ("llama4", json!({ "attention_chunk_size": 16 }), &[w, w, w, None]),
    ] {
        let layers = json!({ "num_hidden_layers": expected.len() });
        let mut changes = changes.clone();
        changes.as_object_mut().unwrap().extend(layers.as_object().unwrap().clone());
        let found =
            windows(model_type, &changes).unwrap_or_else(|error| panic!("{model_type}, {changes}: {error}"));
        assert_eq!(found, expected, "{model_type}, {changes}");
    }
}
