//! What could not be served or read again is not imported.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    import, refusal,
    support::{huggingface_folder, raw_safetensors},
};

fn write(folder: &Path, name: &str, content: &Value) {
    fs::write(folder.join(name), content.to_string()).unwrap();
}

#[test]
fn quantizations_that_cannot_be_served_are_refused_by_name() {
    let refused = |key: &str, settings: Value| {
        refusal(|folder| write(folder, "config.json", &json!({ "model_type": "llama", key: settings })))
    };
    for method in ["bitsandbytes", "fp8", "compressed-tensors", "hqq", "mxfp4"] {
        let text = refused("quantization_config", json!({ "quant_method": method, "bits": 4 }));
        assert!(text.contains(method) && text.contains("mlx-community"), "{text}");
    }
    for bits in [1, 7] {
        let text = refused("quantization", json!({ "bits": bits, "group_size": 64 }));
        assert!(text.contains(&format!("{bits} bits")), "{text}");
    }
    let mixed = json!({ "bits": 4, "group_size": 64, "lm_head": { "bits": 7, "group_size": 64 } });
    assert!(refused("quantization", mixed).contains("`lm_head`"));
    assert!(refused("quantization", json!({ "bits": 4, "group_size": 16 })).contains("groups of 16"));
}

#[test]
fn quantized_tensors_tell_what_the_configuration_does_not() {
    let refused = |tensors: &[(&str, &str, Vec<u64>, usize)]| {
        let mut all = vec![("b", "F32", vec![1], vec![0; 4])];
        all.extend(
            tensors.iter().map(|(name, dtype, shape, len)| (*name, *dtype, shape.clone(), vec![0; *len])),
        );
        refusal(|folder| fs::write(folder.join("model-2.safetensors"), raw_safetensors(&all, 0)).unwrap())
    };
    // 64 inputs at 7 bits in one group.
    let seven = [
        ("m.weight", "U32", vec![2, 14], 112),
        ("m.scales", "F16", vec![2, 1], 4),
        ("m.biases", "F16", vec![2, 1], 4),
    ];
    assert!(refused(&seven).contains("`m.weight`"));
    assert!(refused(&[("m.qweight", "I32", vec![2, 2], 16)]).contains("GPTQ"));
    assert!(refused(&[("m.weight", "F8_E4M3", vec![2, 2], 4)]).contains("FP8"));
}

#[test]
fn settings_too_deep_to_be_read_again_are_refused() {
    for name in ["config.json", "generation_config.json", "tokenizer_config.json", "chat_template.json"] {
        for depth in [65, 126, 127, 100_000] {
            let text = refusal(|folder| {
                // Without another default template, the last of them is read.
                write(folder, "tokenizer_config.json", &json!({}));
                let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
                fs::write(folder.join(name), format!("{{\"model_type\":\"llama\",\"x\":{nested}}}")).unwrap();
            });
            assert!(text.contains(name) && text.contains("nested"), "{text}");
        }
    }
    let text = refusal(|folder| {
        let nested = "[".repeat(1000);
        fs::write(folder.join("tokenizer.json"), format!("{{\"model\":{{\"x\":{nested}")).unwrap();
    });
    assert!(text.contains("recursion limit"), "{text}");
}

#[test]
fn what_is_imported_can_be_read_again() {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    let nested = format!("{}{}", "[".repeat(63), "]".repeat(63));
    fs::write(folder.join("config.json"), format!("{{\"model_type\":\"llama\",\"x\":{nested}}}")).unwrap();
    let (store, _) = import(root.path()).unwrap();
    assert_eq!(store.resolve("model").unwrap().manifest.config["model_type"], "llama");
}

#[test]
fn what_is_too_long_is_refused() {
    let with = |name: &str, content: Value| refusal(|folder| write(folder, name, &content));
    let ends = json!({ "eos_token_id": (0..300).collect::<Vec<_>>() });
    assert!(with("generation_config.json", ends).contains("end tokens"));
    let long = "x".repeat((1 << 20) + 1);
    let list = json!([{ "name": "a", "template": long }]);
    assert!(with("tokenizer_config.json", json!({ "chat_template": list })).contains("chat template \"a\""));
    let text = refusal(|folder| fs::write(folder.join("chat_template.jinja"), &long).unwrap());
    assert!(text.contains("chat_template.jinja"), "{text}");
}
