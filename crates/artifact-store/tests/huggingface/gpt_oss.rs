//! OpenAI's files of gpt-oss: experts whose gates and ups alternate, in MXFP4 as bytes.

use std::{fs, path::Path};

use artifact_store::{Dtype, ImportOptions, Quantization, Store, Transform};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    import, refusal,
    support::{huggingface_folder, raw_safetensors, stored_tensor},
};

const EXPERTS: &str = "model.layers.0.mlp.experts";
const ROUTER: &str = "model.layers.0.mlp.router.weight";

/// A tensor as it is written: name, type, shape, bytes.
type Raw = (String, &'static str, Vec<u64>, Vec<u8>);

/// Bytes that tell where they came from.
fn bytes(count: usize, seed: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 7 + i / 251 + seed) as u8).collect()
}

/// Two experts with two gates and ups of 64 inputs, and three outputs.
fn tensors() -> Vec<Raw> {
    let part = |part: &str| format!("{EXPERTS}.{part}");
    vec![
        (ROUTER.to_owned(), "BF16", vec![2, 64], bytes(256, 5)),
        (part("gate_up_proj_blocks"), "U8", vec![2, 4, 2, 16], bytes(256, 0)),
        (part("gate_up_proj_scales"), "U8", vec![2, 4, 2], bytes(16, 1)),
        (part("gate_up_proj_bias"), "BF16", vec![2, 4], bytes(16, 2)),
        (part("down_proj_blocks"), "U8", vec![2, 3, 1, 16], bytes(96, 3)),
        (part("down_proj_scales"), "U8", vec![2, 3, 1], bytes(6, 4)),
        (part("down_proj_bias"), "BF16", vec![2, 3], bytes(12, 6)),
    ]
}

fn write(folder: &Path, quantization: &serde_json::Value, tensors: &[Raw]) {
    let config = json!({ "model_type": "gpt_oss", "quantization_config": quantization });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    for name in ["model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"] {
        fs::remove_file(folder.join(name)).unwrap();
    }
    let raw: Vec<_> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (name.as_str(), *dtype, shape.clone(), bytes.clone()))
        .collect();
    fs::write(folder.join("model.safetensors"), raw_safetensors(&raw, 0)).unwrap();
}

fn original() -> serde_json::Value {
    json!({ "quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"] })
}

#[test]
fn gates_and_ups_become_matrices_of_their_own() {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    write(&folder, &original(), &tensors());
    let (store, _) = import(root.path()).unwrap();
    let artifact = store.resolve("model").unwrap();
    let stored = |part: &str| stored_tensor(&artifact, &format!("{EXPERTS}.{part}"));
    // Every other row, of `width` bytes.
    let rows = |all: Vec<u8>, width: usize, first: usize| -> Vec<u8> {
        all.chunks(width).skip(first).step_by(2).flatten().copied().collect()
    };
    for (first, matrix) in ["gate_proj", "up_proj"].into_iter().enumerate() {
        let part = |field: &str| stored(&format!("{matrix}.{field}"));
        assert_eq!(part("weight"), (Dtype::U32, vec![2, 2, 8], rows(bytes(256, 0), 32, first)));
        assert_eq!(part("scales"), (Dtype::U8, vec![2, 2, 2], rows(bytes(16, 1), 2, first)));
        assert_eq!(part("bias"), (Dtype::BF16, vec![2, 2], rows(bytes(16, 2), 2, first)));
    }
    assert_eq!(stored("down_proj.weight"), (Dtype::U32, vec![2, 3, 4], bytes(96, 3)));
    assert_eq!(stored("down_proj.scales"), (Dtype::U8, vec![2, 3, 1], bytes(6, 4)));
    assert_eq!(stored("down_proj.bias"), (Dtype::BF16, vec![2, 3], bytes(12, 6)));
    assert_eq!(stored_tensor(&artifact, ROUTER), (Dtype::BF16, vec![2, 64], bytes(256, 5)));
    assert_eq!(artifact.manifest.tensors.len(), 10);

    let packing = json!({ "group_size": 32, "bits": 4, "mode": "mxfp4" });
    assert_eq!(artifact.manifest.config["quantization"], packing);
    assert_eq!(artifact.manifest.config["quantization_config"], packing);
    let config = artifact.manifest.files.iter().find(|file| file.name == "config.json").unwrap();
    let written: serde_json::Value =
        serde_json::from_slice(&fs::read(artifact.blob_path(config)).unwrap()).unwrap();
    assert_eq!(written, artifact.manifest.config);
    assert!(artifact.manifest.transforms.contains(&Transform::SplitExperts));
}

#[test]
fn other_shapes_and_forms_are_refused_by_name() {
    let refused = |quantization: serde_json::Value, change: &dyn Fn(&mut Vec<Raw>)| {
        let mut tensors = tensors();
        change(&mut tensors);
        refusal(|folder| write(folder, &quantization, &tensors))
    };
    let reshaped = |index: usize, shape: &[u64]| {
        let shape = shape.to_vec();
        refused(original(), &move |tensors| tensors[index].2.clone_from(&shape))
    };
    for (index, shape) in [(1, &[2, 4, 32][..]), (1, &[8, 4, 1, 8]), (2, &[2, 8]), (3, &[8]), (4, &[2, 48])] {
        let text = reshaped(index, shape);
        assert!(text.contains(&tensors()[index].0) && text.contains("[experts, outputs"), "{text}");
    }
    assert!(reshaped(1, &[16, 1, 1, 16]).contains("gate and up"));
    assert!(refused(original(), &|tensors| tensors[3].1 = "I16").contains("gate_up_proj_bias"));
    let dense = refused(serde_json::Value::Null, &|tensors| {
        tensors.truncate(1);
        tensors.push((format!("{EXPERTS}.gate_up_proj"), "BF16", vec![2, 8, 4], bytes(128, 0)));
    });
    assert!(dense.contains("gate_up_proj") && dense.contains("mlx-community"), "{dense}");
    // Without the setting the blocks are another program's.
    assert!(refused(serde_json::Value::Null, &|_| ()).contains("MXFP4"));
    // A second name for what a tensor becomes.
    let twice = refused(original(), &|tensors| {
        tensors.push((format!("{EXPERTS}.up_proj.bias"), "BF16", vec![2, 2], bytes(8, 0)));
    });
    assert!(twice.contains("two of its tensors become") && twice.contains("up_proj.bias"), "{twice}");
}

#[test]
fn what_is_quantized_is_not_quantized_again() {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    write(&folder, &original(), &tensors());
    let store = Store::open(root.path().join("store")).unwrap();
    let options = ImportOptions { quantize: Quantization::new(4, 64) };
    let error = store.import_with(&folder, None, &options, &mut |_| std::ops::ControlFlow::Continue(()));
    assert!(error.unwrap_err().to_string().contains("without --quantize"));
}
