//! Folders whose matrices GPTQ, AWQ or compressed-tensors have packed, as recorded by `tests/vectors/packed.py`.

use std::{collections::BTreeMap, fs, path::Path, sync::LazyLock};

use artifact_store::{Artifact, Dtype, Transform};
use half::{bf16, f16};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    import,
    support::{huggingface_folder, raw_safetensors, stored_tensor, vectors},
};

#[path = "packed/refused.rs"]
mod refused;

const MODULE: &str = "model.layers.0.mlp.up_proj";

/// Type, shape and bytes of a tensor, by its name.
type Tensors = BTreeMap<String, (String, Vec<u64>, Vec<u8>)>;

/// A recorded matrix.
#[derive(Clone)]
struct Case {
    name: String,
    settings: Value,
    /// Named after [`MODULE`].
    tensors: Tensors,
    /// Row-major, outputs first.
    values: Vec<f32>,
    outputs: u64,
}

fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn shape(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|side| side.as_u64().unwrap()).collect()
}

fn floats(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it)).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|it| f16::from_le_bytes(*it).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|it| bf16::from_le_bytes(*it).to_f32()).collect(),
        other => panic!("{other:?}"),
    }
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let read = |case: &Value| {
        let tensor = |(part, it): (&String, &Value)| {
            let dtype = it["dtype"].as_str().unwrap().to_owned();
            (format!("{MODULE}.{part}"), (dtype, shape(&it["shape"]), hex(&it["bytes"])))
        };
        Case {
            name: case["name"].as_str().unwrap().to_owned(),
            settings: case["settings"].clone(),
            tensors: case["tensors"].as_object().unwrap().iter().map(tensor).collect(),
            values: floats(&hex(&case["values"]["bytes"]), Dtype::F32),
            outputs: shape(&case["values"]["shape"])[0],
        }
    };
    vectors("packed.json").as_array().unwrap().iter().map(read).collect()
});

/// The recorded matrix whose name begins like this.
fn case(name: &str) -> Case {
    CASES.iter().find(|case| case.name.starts_with(name)).unwrap().clone()
}

fn name(part: &str) -> String {
    format!("{MODULE}.{part}")
}

fn file(tensors: &Tensors) -> Vec<u8> {
    let raw: Vec<_> = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name.as_str(), dtype.as_str(), shape.clone(), bytes.clone()))
        .collect();
    raw_safetensors(&raw, 0)
}

/// Puts a model with these settings and tensors into a folder.
fn write(folder: &Path, settings: &Value, tensors: &Tensors) {
    let config = json!({ "model_type": "llama", "vocab_size": 3, "quantization_config": settings });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    for name in ["model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"] {
        let _ = fs::remove_file(folder.join(name));
    }
    fs::write(folder.join("model.safetensors"), file(tensors)).unwrap();
}

fn imported(settings: &Value, tensors: &Tensors) -> (TempDir, Artifact) {
    let root = TempDir::new().unwrap();
    write(&huggingface_folder(&root.path().join("model")), settings, tensors);
    let (store, _) = import(root.path()).unwrap();
    let artifact = store.resolve("model").unwrap();
    (root, artifact)
}

/// The values of a stored matrix of `bits` bits, by the definition of MLX's packing; then its group size and the type of its
/// scales.
fn dequantized(artifact: &Artifact, bits: u64) -> (Vec<f32>, u64, Dtype) {
    let (dtype, packed, words) = stored_tensor(artifact, &name("weight"));
    let (of_scales, groups, scales) = stored_tensor(artifact, &name("scales"));
    let (of_biases, of_biases_shape, biases) = stored_tensor(artifact, &name("biases"));
    assert_eq!((dtype, of_scales, &groups), (Dtype::U32, of_biases, &of_biases_shape));
    let inputs = packed[1] * 32 / bits;
    let group = inputs / groups[1];
    let (scales, biases) = (floats(&scales, of_scales), floats(&biases, of_biases));
    let values = (0..packed[0] * inputs).map(|index| {
        let bit = |at: u64| u32::from(words[at as usize / 8] >> (at % 8) & 1);
        let q = (0..bits).fold(0, |q, i| q | bit(index * bits + i) << i);
        let of = (index / group) as usize;
        let value = f64::from(scales[of]) * f64::from(q) + f64::from(biases[of]);
        assert_eq!(f64::from(value as f32), value, "it needs no rounding");
        value as f32
    });
    (values.collect(), group, of_scales)
}

fn assert_same(found: &[f32], expected: &[f32], of: &str) {
    // Of zeros the sign does not matter: `0 * scale` and `scale * q - scale * q` have different ones.
    let same = |(found, expected): (&f32, &f32)| found == expected;
    assert_eq!(found.len(), expected.len(), "{of}");
    assert_eq!(found.iter().zip(expected).position(|pair| !same(pair)), None, "{of}");
}

#[test]
fn matrices_keep_their_values_bit_for_bit() {
    for case in &*CASES {
        let weights = &case.settings["config_groups"]["group_0"]["weights"];
        let bits = case.settings["bits"].as_u64().or(weights["num_bits"].as_u64()).unwrap();
        let (_root, artifact) = imported(&case.settings, &case.tensors);
        let (values, group, scales) = dequantized(&artifact, bits);
        assert_same(&values, &case.values, &case.name);
        // The type of scales that the source has, where biases are exact in it.
        let is_symmetric = case.name.ends_with(", symmetric");
        assert_eq!(scales, if is_symmetric { Dtype::F16 } else { Dtype::F32 }, "{}", case.name);

        let manifest = &artifact.manifest;
        assert_eq!(manifest.tensors.len(), 3, "{}", case.name);
        assert!(manifest.transforms.contains(&Transform::RepackAffine));
        let packing = json!({ "bits": bits, "group_size": group });
        assert_eq!(manifest.config["quantization"], packing, "{}", case.name);
        assert_eq!(manifest.config["quantization_config"], packing, "{}", case.name);
        let config = manifest.files.iter().find(|file| file.name == "config.json").unwrap();
        let written: Value = serde_json::from_slice(&fs::read(artifact.blob_path(config)).unwrap()).unwrap();
        assert_eq!(written, manifest.config);
    }
}

/// Outputs are converted some at a time.
#[test]
fn a_matrix_of_many_outputs_is_in_order() {
    for of in ["gptq v1, 4 bits, groups of 256", "awq, groups of 128"] {
        let mut case = case(of);
        let times = if of.starts_with("awq") { 2500 } else { 1300 };
        for (dtype, shape, bytes) in case.tensors.values_mut().filter(|(_, shape, _)| shape.len() == 2) {
            // Outputs are the last dimension.
            assert_ne!(dtype, "I64");
            let row = bytes.len() / shape[0] as usize;
            *bytes = bytes.chunks(row).flat_map(|row| row.repeat(times)).collect();
            shape[1] *= times as u64;
        }
        let (_root, artifact) = imported(&case.settings, &case.tensors);
        let (values, ..) = dequantized(&artifact, 4);
        assert_same(&values, &case.values.repeat(times), of);
        let (_, shape, bytes) = stored_tensor(&artifact, &name("weight"));
        assert_eq!(shape[0], case.outputs * times as u64);
        assert!(bytes.len() > 2 << 20, "there is more than is converted at a time");
    }
}

#[test]
fn parts_of_a_matrix_may_be_in_several_files() {
    let case = case("gptq v1, 4 bits, groups of 32");
    let (_root, expected) = imported(&case.settings, &case.tensors);
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    write(&folder, &case.settings, &case.tensors);
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let (mut first, mut second) = (case.tensors, Tensors::new());
    for part in ["qzeros", "scales"] {
        second.extend(first.remove_entry(&name(part)));
    }
    first.insert("model.norm.weight".to_owned(), ("F16".to_owned(), vec![2], vec![1, 2, 3, 4]));
    let mut index = serde_json::Map::new();
    for (name, tensors) in [("model-1.safetensors", &first), ("model-2.safetensors", &second)] {
        fs::write(folder.join(name), file(tensors)).unwrap();
        index.extend(tensors.keys().map(|tensor| (tensor.clone(), json!(name))));
    }
    let index = json!({ "weight_map": index }).to_string();
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    let (store, _) = import(root.path()).unwrap();
    let artifact = store.resolve("model").unwrap();
    for part in ["weight", "scales", "biases"] {
        assert_eq!(stored_tensor(&artifact, &name(part)), stored_tensor(&expected, &name(part)));
    }
    let norm = stored_tensor(&artifact, "model.norm.weight");
    assert_eq!(norm, (Dtype::F16, vec![2], vec![1, 2, 3, 4]), "what is not packed stays");
}

#[test]
fn modules_may_differ_and_be_dense() {
    let mut usual = case("gptq v1, 4 bits, groups of 32");
    let other = case("gptq v1, 8 bits");
    let renamed = |tensors: &Tensors, module: &str| -> Tensors {
        tensors.iter().map(|(name, it)| (name.replace(MODULE, module), it.clone())).collect()
    };
    let second = renamed(&usual.tensors, "model.layers.1.mlp.up_proj");
    usual.tensors.extend(second);
    usual.tensors.extend(renamed(&other.tensors, "model.layers.1.mlp.down_proj"));
    let dense = ("F16".to_owned(), vec![2, 64], vec![7; 256]);
    usual.tensors.insert("lm_head.weight".to_owned(), dense);
    usual.settings["dynamic"] = json!({ "+:.*down_proj": { "bits": 8 }, "-:lm_head": {} });
    let (_root, artifact) = imported(&usual.settings, &usual.tensors);
    let expected = json!({
        "bits": 4, "group_size": 32, "model.layers.1.mlp.down_proj": { "bits": 8, "group_size": 32 },
    });
    assert_eq!(artifact.manifest.config["quantization"], expected);
    assert_eq!(stored_tensor(&artifact, "lm_head.weight"), (Dtype::F16, vec![2, 64], vec![7; 256]));
}

/// AutoGPTQ adds biases of zeros to modules that have none.
#[test]
fn biases_of_zeros_are_dropped_where_all_layers_have_them() {
    let case = case("gptq v1, 4 bits, groups of 32");
    let outputs = case.outputs;
    let mut tensors = Tensors::new();
    let mut add = |module: &str, byte: u8| {
        let parts = case.tensors.iter().map(|(name, it)| (name.replace(MODULE, module), it.clone()));
        tensors.extend(parts);
        let bias = ("F16".to_owned(), vec![outputs], vec![byte; 2 * outputs as usize]);
        tensors.insert(format!("{module}.bias"), bias);
    };
    for (module, byte) in [("0.q_proj", 1), ("1.q_proj", 0), ("0.o_proj", 0), ("1.o_proj", 0)] {
        add(&format!("model.layers.{module}"), byte);
    }
    let (_root, artifact) = imported(&case.settings, &tensors);
    let biases: Vec<_> = artifact
        .manifest
        .tensors
        .iter()
        .filter(|tensor| tensor.name.ends_with(".bias"))
        .map(|it| &it.name)
        .collect();
    assert_eq!(biases, ["model.layers.0.q_proj.bias", "model.layers.1.q_proj.bias"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Whatever is accepted can be read again.
    #[test]
    fn flipped_bytes_never_panic(
        of in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let case = of.get(&CASES);
        let root = TempDir::new().unwrap();
        let folder = huggingface_folder(&root.path().join("model"));
        write(&folder, &case.settings, &case.tensors);
        let mut bytes = fs::read(folder.join("model.safetensors")).unwrap();
        let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        for (place, value) in flips {
            bytes[place.index(header)] = value;
        }
        fs::write(folder.join("model.safetensors"), bytes).unwrap();
        if let Ok((store, _)) = import(root.path()) {
            let artifact = store.resolve("model").unwrap();
            for tensor in &artifact.manifest.tensors {
                stored_tensor(&artifact, &tensor.name);
            }
        }
    }
}
