//! Quantizing at import, compared with what MLX's own `mx.quantize` made of the same matrices.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{fs, ops::ControlFlow, path::Path};

use artifact_store::{
    Artifact, Dtype, FileRole, ImportEvent, ImportOptions, Imported, Quantization, Store, StoreError,
    Transform,
};
use serde_json::{Value, json};
use support::{raw_safetensors, stored_tensor};
use tempfile::TempDir;

const DTYPES: [(&str, Dtype); 3] = [("F32", Dtype::F32), ("F16", Dtype::F16), ("BF16", Dtype::BF16)];
/// Columns of the recorded matrices; they have six rows.
const COLUMNS: u64 = 128;

fn import(root: &Path, source: &str, quantize: Option<(u8, u8)>) -> Result<(Store, Imported), StoreError> {
    let store = Store::open(root.join("store"))?;
    let quantize = quantize.map(|(bits, group_size)| Quantization::new(bits, group_size).unwrap());
    let mut silent = |_: ImportEvent| ControlFlow::Continue(());
    let imported = store.import_with(&root.join(source), None, &ImportOptions { quantize }, &mut silent)?;
    Ok((store, imported))
}

/// A folder with a matrix of the recorded rows, so many times, and a norm.
fn folder(root: &Path, dtype: &str, times: usize) -> Vec<u8> {
    let folder = support::huggingface_folder(&root.join("model"));
    fs::remove_file(folder.join("model.safetensors.index.json")).unwrap();
    fs::remove_file(folder.join("model-1.safetensors")).unwrap();
    fs::remove_file(folder.join("model-2.safetensors")).unwrap();
    let matrix = hex(&support::vectors("quantize.json")[dtype]["matrix"]).repeat(times);
    let norm = (dtype, vec![COLUMNS], matrix[..matrix.len() / (6 * times)].to_vec());
    let odd = (dtype, vec![COLUMNS, 6], matrix[..matrix.len() / times].to_vec());
    let tensors = [
        ("model.norm.weight", norm.0, norm.1, norm.2.clone()),
        ("lm_head.weight", dtype, vec![6 * times as u64, COLUMNS], matrix),
        ("odd.weight", odd.0, odd.1, odd.2),
    ];
    fs::write(folder.join("model.safetensors"), raw_safetensors(&tensors, 0)).unwrap();
    norm.2
}

fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn check_against_recorded(artifact: &Artifact, module: &str, recorded: &Value, dtype: Dtype, times: usize) {
    for (part, dtype) in [("weight", Dtype::U32), ("scales", dtype), ("biases", dtype)] {
        let (found, shape, bytes) = stored_tensor(artifact, &format!("{module}.{part}"));
        assert_eq!((found, shape[0]), (dtype, 6 * times as u64));
        assert!(bytes == hex(&recorded[part]).repeat(times), "{part} of {dtype:?} {}", recorded["bits"]);
    }
}

#[test]
fn matrices_are_quantized_as_mlx_does_it_bit_for_bit() {
    for (name, dtype) in DTYPES {
        for recorded in support::vectors("quantize.json")[name]["quantized"].as_array().unwrap() {
            let number = |key: &str| recorded[key].as_u64().unwrap() as u8;
            let (bits, group_size) = (number("bits"), number("group_size"));
            let root = TempDir::new().unwrap();
            let norm = folder(root.path(), name, 1);
            let (store, _) = import(root.path(), "model", Some((bits, group_size))).unwrap();
            let artifact = store.resolve("model").unwrap();
            check_against_recorded(&artifact, "lm_head", recorded, dtype, 1);
            // Not a matrix, and a matrix whose rows are no whole groups.
            assert_eq!(stored_tensor(&artifact, "model.norm.weight"), (dtype, vec![COLUMNS], norm));
            assert_eq!(stored_tensor(&artifact, "odd.weight").1, [COLUMNS, 6]);

            let manifest = &artifact.manifest;
            let quantization = Quantization::new(bits, group_size).unwrap();
            assert_eq!(manifest.transforms, [Transform::Quantize(quantization)]);
            assert_eq!(manifest.config["quantization"], json!({ "bits": bits, "group_size": group_size }));
            let stored =
                artifact.files(FileRole::Settings).find(|(_, file)| file.name == "config.json").unwrap();
            let stored: Value = serde_json::from_slice(&artifact.read_blob(stored.1).unwrap()).unwrap();
            assert_eq!(stored, manifest.config, "the stored file says what the weights are");
        }
    }
}

/// Gemma 4's experts as transformers stores them: in one tensor without `.weight`, all of whose rows are those of matrices.
#[test]
fn stacked_experts_are_quantized_where_their_rows_are_those_of_matrices() {
    let root = TempDir::new().unwrap();
    let norm = folder(root.path(), "F32", 1);
    let vectors = support::vectors("quantize.json");
    let name = "model.language_model.layers.0.experts.gate_up_proj";
    let tensors = [
        (name, "F32", vec![3, 2, COLUMNS], hex(&vectors["F32"]["matrix"])),
        ("model.vision_tower.kernel.weight", "F32", vec![1, 1, COLUMNS], norm.clone()),
        ("model.norm.weight", "F32", vec![COLUMNS], norm),
    ];
    let path = root.path().join("model");
    fs::write(path.join("model.safetensors"), raw_safetensors(&tensors, 0)).unwrap();
    let settings = path.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&settings).unwrap()).unwrap();
    let refused = import(root.path(), "model", Some((4, 64))).err().unwrap().to_string();
    assert!(refused.contains("none of its matrices"), "{refused}");
    config["model_type"] = json!("gemma4");
    fs::write(&settings, config.to_string()).unwrap();
    let (store, _) = import(root.path(), "model", Some((4, 64))).unwrap();
    let artifact = store.resolve("model").unwrap();
    let recorded = &vectors["F32"]["quantized"][1];
    for (part, columns) in [("weight", COLUMNS / 8), ("scales", COLUMNS / 64), ("biases", COLUMNS / 64)] {
        let (_, shape, bytes) = stored_tensor(&artifact, &format!("{name}.{part}"));
        assert_eq!(shape, [3, 2, columns]);
        assert!(bytes == hex(&recorded[part]), "{part}");
    }
    assert_eq!(stored_tensor(&artifact, "model.vision_tower.kernel.weight").1, [1, 1, COLUMNS]);
}

#[test]
fn a_matrix_of_many_chunks_is_in_order() {
    let root = TempDir::new().unwrap();
    let times = 1500;
    folder(root.path(), "F32", times);
    let (store, _) = import(root.path(), "model", Some((4, 64))).unwrap();
    let vectors = support::vectors("quantize.json");
    let recorded = &vectors["F32"]["quantized"][1];
    assert_eq!((&recorded["bits"], &recorded["group_size"]), (&4.into(), &64.into()));
    check_against_recorded(&store.resolve("model").unwrap(), "lm_head", recorded, Dtype::F32, times);
}

#[test]
fn the_same_source_with_the_same_options_is_the_same_artifact() {
    let root = TempDir::new().unwrap();
    folder(root.path(), "F16", 1);
    let digest = |quantize| import(root.path(), "model", quantize).unwrap().1;
    let first = digest(Some((4, 32)));
    let again = digest(Some((4, 32)));
    assert!(again.already_stored && again.digest == first.digest && again.new_bytes == 0);
    let other = digest(Some((8, 32)));
    assert!(other.replaced == Some(first.digest) && other.new_bytes < other.size, "files are shared");
    assert_eq!(digest(None).replaced, Some(other.digest));
}

#[test]
fn blocks_of_a_gguf_file_stay_and_its_dense_matrices_are_quantized() {
    let root = TempDir::new().unwrap();
    let vectors = support::vectors("quantize.json");
    let mut gguf = support::llama(COLUMNS, 96);
    // Six rows: the vocabulary.
    gguf.replace_tensor("token_embd.weight", 1, hex(&vectors["F16"]["matrix"]));
    gguf.write(&root.path().join("model.gguf"));
    let (store, _) = import(root.path(), "model.gguf", Some((8, 64))).unwrap();
    let artifact = store.resolve("model").unwrap();
    let recorded = &vectors["F16"]["quantized"][4];
    assert_eq!((&recorded["bits"], &recorded["group_size"]), (&8.into(), &64.into()));
    check_against_recorded(&artifact, "model.embed_tokens", recorded, Dtype::F16, 1);
    let config = &artifact.manifest.config["quantization"];
    assert_eq!((&config["bits"], &config["group_size"]), (&4.into(), &32.into()));
    assert_eq!(config["model.embed_tokens"], json!({ "group_size": 64, "bits": 8 }));
    assert!(artifact.manifest.transforms.contains(&Transform::Quantize(Quantization::new(8, 64).unwrap())));
    assert!(artifact.manifest.transforms.contains(&Transform::RepackAffine));
}

/// Quantizing blocks that would become f16 is quantizing that f16.
#[test]
fn dequantized_blocks_are_quantized_like_the_numbers_they_become() {
    let root = TempDir::new().unwrap();
    let vectors = support::vectors("gguf.json");
    let block = hex(&vectors["Q6_K"]["blocks"]);
    let mut gguf = support::llama(256, 256);
    gguf.replace_tensor("blk.0.ffn_up.weight", 14, block[..block.len() / 2].repeat(256));
    gguf.write(&root.path().join("tiny.gguf"));
    let name = "model.layers.0.mlp.up_proj";
    let (store, _) = import(root.path(), "tiny.gguf", None).unwrap();
    let (dtype, shape, bytes) = stored_tensor(&store.resolve("tiny").unwrap(), &format!("{name}.weight"));
    assert_eq!(dtype, Dtype::F16);

    folder(root.path(), "F16", 1);
    let weight = format!("{name}.weight");
    let tensors = [(weight.as_str(), "F16", shape, bytes)];
    fs::write(root.path().join("model/model.safetensors"), raw_safetensors(&tensors, 0)).unwrap();
    import(root.path(), "model", Some((4, 64))).unwrap();
    import(root.path(), "tiny.gguf", Some((4, 64))).unwrap();
    let [from_gguf, from_folder] = ["tiny", "model"].map(|name| store.resolve(name).unwrap());
    for part in ["weight", "scales", "biases"] {
        let part = format!("{name}.{part}");
        assert_eq!(stored_tensor(&from_gguf, &part), stored_tensor(&from_folder, &part));
    }
}

#[test]
fn what_cannot_be_quantized_is_refused() {
    let refusal = |spoil: fn(&Path), quantize| {
        let root = TempDir::new().unwrap();
        folder(root.path(), "F32", 1);
        spoil(&root.path().join("model"));
        let error = import(root.path(), "model", Some(quantize)).unwrap_err();
        assert!(matches!(error, StoreError::BadSource { .. }), "{error}");
        assert_eq!(support::files_below(&root.path().join("store")), [".lock"]);
        error.to_string()
    };
    let already = refusal(
        |folder| {
            let config = json!({ "model_type": "llama", "quantization": { "bits": 4, "group_size": 64 } });
            fs::write(folder.join("config.json"), config.to_string()).unwrap();
        },
        (4, 64),
    );
    assert!(already.contains("quantized already"), "{already}");
    let none = refusal(
        |folder| {
            let tensors = [("a.weight", "F32", vec![2, 6], vec![0; 48])];
            fs::write(folder.join("model.safetensors"), raw_safetensors(&tensors, 0)).unwrap();
        },
        (4, 64),
    );
    assert!(none.contains("4 bits in groups of 64"), "{none}");
    let no_number = refusal(
        |folder| {
            let bytes = f32::NAN.to_le_bytes().repeat(64);
            let tensors = [("a.weight", "F32", vec![1, 64], bytes)];
            fs::write(folder.join("model.safetensors"), raw_safetensors(&tensors, 0)).unwrap();
        },
        (4, 64),
    );
    assert!(no_number.contains("`a.weight`") && no_number.contains("finite"), "{no_number}");
    assert!(Quantization::new(7, 64).is_none() && Quantization::new(4, 16).is_none());
}

/// Matrices that get more bits by a recipe say so in the configuration, and both are packed as with their bits alone.
#[test]
fn a_recipe_gives_some_matrices_more_bits() {
    let root = TempDir::new().unwrap();
    folder(root.path(), "BF16", 1);
    let source = root.path().join("model");
    let vectors = support::vectors("quantize.json");
    let matrix = hex(&vectors["BF16"]["matrix"]);
    let tensor = |name| (name, "BF16", vec![6, COLUMNS], matrix.clone());
    let tensors = [tensor("lm_head.weight"), tensor("model.embed_tokens.weight")];
    fs::write(source.join("model.safetensors"), raw_safetensors(&tensors, 0)).unwrap();
    let quantize = Quantization::named("mixed_3_6", 32).ok();
    let store = Store::open(root.path().join("store")).unwrap();
    let import = || {
        let mut silent = |_: ImportEvent| ControlFlow::Continue(());
        store.import_with(&source, None, &ImportOptions { quantize }, &mut silent)
    };
    let says_no_layers = import().unwrap_err().to_string();
    assert!(says_no_layers.contains("num_hidden_layers"), "{says_no_layers}");

    let config = json!({ "model_type": "llama", "num_hidden_layers": 16 });
    fs::write(source.join("config.json"), config.to_string()).unwrap();
    import().unwrap();
    let artifact = store.resolve("model").unwrap();
    let expected = json!({ "bits": 3, "group_size": 32, "lm_head": { "bits": 6, "group_size": 32 } });
    assert_eq!(artifact.manifest.config["quantization"], expected);
    assert_eq!(artifact.manifest.transforms, [Transform::Quantize(quantize.unwrap())]);
    let recorded = |bits: u64| {
        let all = vectors["BF16"]["quantized"].as_array().unwrap().iter();
        all.clone().find(|it| it["bits"] == bits && it["group_size"] == 32).unwrap().clone()
    };
    check_against_recorded(&artifact, "lm_head", &recorded(6), Dtype::BF16, 1);
    check_against_recorded(&artifact, "model.embed_tokens", &recorded(3), Dtype::BF16, 1);
}
