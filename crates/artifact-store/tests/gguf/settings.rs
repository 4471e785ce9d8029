//! What the metadata may say, and who may read what is made of a file.

use std::{fs, ops::ControlFlow, os::unix::fs::PermissionsExt};

use artifact_store::Store;
use tempfile::TempDir;

use crate::{
    refusal,
    support::{float, import_gguf, number, text, tiny_llama},
};

#[test]
fn numbers_that_cannot_be_are_refused_and_not_replaced() {
    let double = |value: f64| [&12_u32.to_le_bytes()[..], &value.to_le_bytes()].concat();
    let refused = |key: &str, value: Vec<u8>| {
        let mut gguf = tiny_llama();
        gguf.set("llama.rope.scaling.type", text("linear"));
        gguf.set("llama.rope.scaling.factor", float(2.0));
        gguf.set(key, value);
        let reason = refusal(&gguf);
        assert!(reason.contains(key), "{reason}");
    };
    for key in [
        "llama.attention.layer_norm_rms_epsilon",
        "llama.rope.freq_base",
        "llama.rope.scaling.factor",
        "llama.rope.scale_linear",
    ] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0, 0.0, -0.0] {
            if key == "llama.rope.scale_linear" {
                let mut gguf = tiny_llama();
                gguf.set(key, float(bad));
                assert!(refusal(&gguf).contains(key));
            } else {
                refused(key, float(bad));
                refused(key, double(bad.into()));
            }
        }
        if key != "llama.rope.scale_linear" {
            // Finite, but not as the f32 that it is computed with.
            refused(key, double(1e300));
            refused(key, double(1e-300));
            refused(key, text("1e-5"));
        }
    }
    for key in
        ["llama.context_length", "llama.block_count", "llama.embedding_length", "llama.feed_forward_length"]
    {
        refused(key, number(0));
        refused(key, number(u32::MAX));
        refused(key, float(1.0));
    }
}

#[test]
fn rope_scaling_has_one_name_for_its_type() {
    let scaling = |settings: &[(&str, Vec<u8>)]| {
        let mut gguf = tiny_llama();
        settings.iter().for_each(|(key, value)| gguf.set(&format!("llama.rope.{key}"), value.clone()));
        import_gguf(&gguf).1.manifest.config.get("rope_scaling").cloned()
    };
    let linear = Some(serde_json::json!({ "rope_type": "linear", "factor": 2.0 }));
    let factor = ("scaling.factor", float(2.0));
    assert_eq!(scaling(&[("scaling.type", text("linear")), factor.clone()]), linear);
    assert_eq!(scaling(&[factor]), linear, "llama.cpp takes it as linear");
    assert_eq!(scaling(&[("scale_linear", float(2.0))]), linear, "the older name");
    assert_eq!(scaling(&[("scaling.type", text("none")), ("scaling.factor", float(2.0))]), None);
    let original = ("scaling.original_context_length", number(64));
    let yarn = scaling(&[("scaling.type", text("yarn")), ("scaling.factor", float(4.0)), original]).unwrap();
    assert_eq!((&yarn["rope_type"], yarn.get("type")), (&"yarn".into(), None));
}

#[test]
fn what_is_made_of_a_private_file_is_private() {
    let folder = TempDir::new().unwrap();
    let source = tiny_llama().write(&folder.path().join("tiny.gguf"));
    fs::set_permissions(&source, fs::Permissions::from_mode(0o640)).unwrap();
    let store = Store::open(folder.path().join("store")).unwrap();
    store.import(&source, None, &mut |_| ControlFlow::Continue(())).unwrap();
    let artifact = store.resolve("tiny").unwrap();
    for file in &artifact.manifest.files {
        let mode = fs::metadata(artifact.blob_path(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o440, "{}", file.name);
    }
}
