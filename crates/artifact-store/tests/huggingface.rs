//! Importing Hugging Face folders.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "huggingface/gpt_oss.rs"]
mod gpt_oss;
#[path = "huggingface/links.rs"]
mod links;
#[path = "huggingface/packed.rs"]
mod packed;
#[path = "huggingface/places.rs"]
mod places;
#[path = "huggingface/refused.rs"]
mod refused;
#[path = "huggingface/shards.rs"]
mod shards;
mod support;

use std::{fs, ops::ControlFlow, os::unix::fs::symlink, path::Path};

use artifact_store::{Dtype, FileRole, ImportEvent, Imported, Store, StoreError, Transform};
use proptest::prelude::*;
use serde_json::json;
use support::{huggingface_folder, raw_safetensors, safetensors, stored_tensor};
use tempfile::TempDir;

fn import(root: &Path) -> Result<(Store, Imported), StoreError> {
    let store = Store::open(root.join("store"))?;
    let imported =
        store.import(&root.join("model"), None, &mut |_: ImportEvent| ControlFlow::Continue(()))?;
    Ok((store, imported))
}

/// A folder after `spoil`, and what import says to it.
fn refusal(spoil: impl FnOnce(&Path)) -> String {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    spoil(&folder);
    let error = import(root.path()).unwrap_err();
    assert_eq!(support::files_below(&root.path().join("store")), [".lock"]);
    error.to_string()
}

#[test]
fn everything_a_worker_needs_is_in_the_manifest() {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    let (store, imported) = import(root.path()).unwrap();
    assert_eq!(imported.name, "model");

    let artifact = store.resolve("model").unwrap();
    let manifest = &artifact.manifest;
    assert_eq!(manifest.architecture(), Some("llama"));
    assert_eq!(manifest.eos_token_ids, [2, 7, 9]);
    assert_eq!(manifest.bos_token.as_deref(), Some("<begin>"));
    assert_eq!(manifest.eos_token.as_deref(), Some("<end>"));
    assert_eq!(manifest.chat_template.as_deref(), Some("plain"));
    assert_eq!(manifest.named_chat_templates["tool_use"], "tools");
    assert_eq!(artifact.read_tokenizer().unwrap(), fs::read(folder.join("tokenizer.json")).unwrap());

    let shards: Vec<_> = artifact.files(FileRole::Weights).map(|(_, file)| file.name.as_str()).collect();
    assert_eq!(shards, ["model-1.safetensors", "model-2.safetensors"]);
    let b = manifest.tensors.iter().find(|tensor| tensor.name == "b").unwrap();
    let file = &manifest.files[b.file];
    let bytes = fs::read(artifact.blob_path(file)).unwrap();
    assert_eq!(bytes, fs::read(folder.join("model-2.safetensors")).unwrap(), "bytes are unchanged");
    assert_eq!(bytes[b.offset as usize..][..4], 3.0_f32.to_le_bytes());
    assert_eq!((b.len, &b.shape[..]), (20, &[5][..]));
    artifact.open_blob(file).unwrap();
}

#[test]
fn two_models_share_equal_files() {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    let (store, first) = import(root.path()).unwrap();
    let again = import(root.path()).unwrap().1;
    assert!(again.already_stored && !first.already_stored);
    assert_eq!((again.digest, again.new_bytes), (first.digest, 0));

    let config = serde_json::to_vec(&json!({ "model_type": "llama", "vocab_size": 4 })).unwrap();
    fs::write(folder.join("config.json"), &config).unwrap();
    let changed = import(root.path()).unwrap().1;
    assert_eq!(changed.new_bytes, config.len() as u64);
    assert_eq!(changed.replaced, Some(first.digest));
    assert_eq!(store.list().unwrap().len(), 2);
}

#[test]
fn misaligned_tensors_are_moved_to_aligned_places() {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    let bytes = |n: u8| (0..n).collect::<Vec<u8>>();
    // The data begin at an odd byte, and a BOOL stands before an F32.
    let tensors = [
        ("b", "F32", vec![2, 3], bytes(24)),
        ("c", "BOOL", vec![3], bytes(3)),
        ("d", "BF16", vec![2], bytes(4)),
    ];
    fs::write(folder.join("model-2.safetensors"), raw_safetensors(&tensors, 1)).unwrap();
    let (store, imported) = import(root.path()).unwrap();
    let artifact = store.resolve("model").unwrap();
    assert_eq!(artifact.manifest.transforms, [Transform::Align]);
    for tensor in &artifact.manifest.tensors {
        assert_eq!(tensor.offset % (tensor.dtype.bitsize() as u64 / 8), 0, "{tensor:?}");
    }
    assert_eq!(stored_tensor(&artifact, "b"), (Dtype::F32, vec![2, 3], bytes(24)));
    assert_eq!(stored_tensor(&artifact, "c"), (Dtype::BOOL, vec![3], bytes(3)));
    assert_eq!(stored_tensor(&artifact, "d"), (Dtype::BF16, vec![2], bytes(4)));
    assert_eq!(import(root.path()).unwrap().1.digest, imported.digest);
}

#[test]
fn a_folder_of_many_shards_is_one_artifact() {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    let mut weight_map = serde_json::Map::new();
    for shard in 0..40 {
        let (file, tensor) = (format!("model-{shard:05}-of-00040.safetensors"), format!("t{shard}"));
        fs::write(folder.join(&file), safetensors(&[(&tensor, vec![shard as f32; 7])])).unwrap();
        weight_map.insert(tensor, file.into());
    }
    let index = json!({ "weight_map": weight_map });
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    let (store, _) = import(root.path()).unwrap();
    let artifact = store.resolve("model").unwrap();
    assert_eq!(artifact.files(FileRole::Weights).count(), 40);
    for shard in 0..40 {
        let (_, _, bytes) = stored_tensor(&artifact, &format!("t{shard}"));
        assert_eq!(bytes, (shard as f32).to_le_bytes().repeat(7));
    }
}

#[test]
fn quantized_modules_of_mlx_community_keep_their_settings() {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    let quantization = json!({ "group_size": 64, "bits": 4, "lm_head": { "group_size": 32, "bits": 8 } });
    let config = json!({ "model_type": "llama", "quantization": quantization });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let tensors = [
        ("b", "F32", vec![1], vec![0; 4]),
        ("lm_head.weight", "U32", vec![2, 16], vec![1; 128]),
        ("lm_head.scales", "BF16", vec![2, 2], vec![2; 8]),
        ("lm_head.biases", "BF16", vec![2, 2], vec![3; 8]),
    ];
    let bytes = raw_safetensors(&tensors, 0);
    fs::write(folder.join("model-2.safetensors"), &bytes).unwrap();
    let (store, _) = import(root.path()).unwrap();
    let artifact = store.resolve("model").unwrap();
    assert_eq!(artifact.manifest.config["quantization"], quantization);
    assert!(artifact.manifest.transforms.is_empty());
    let file = artifact.files(FileRole::Weights).nth(1).unwrap().1;
    assert_eq!(fs::read(artifact.blob_path(file)).unwrap(), bytes);
}

#[test]
fn a_file_that_changes_meanwhile_is_refused() {
    for name in ["model-1.safetensors", "config.json", "tokenizer.json"] {
        let root = TempDir::new().unwrap();
        let folder = huggingface_folder(&root.path().join("model"));
        let store = Store::open(root.path().join("store")).unwrap();
        let mut touch = |event: ImportEvent| {
            if let ImportEvent::Planned(_) = event {
                // The same bytes in a new file: nobody could tell that from a change.
                let bytes = fs::read(folder.join(name)).unwrap();
                fs::write(folder.join("new"), bytes).unwrap();
                fs::rename(folder.join("new"), folder.join(name)).unwrap();
            }
            ControlFlow::Continue(())
        };
        let error = store.import(&folder, None, &mut touch).unwrap_err().to_string();
        assert!(error.contains("changed while it was imported") && error.contains(name), "{error}");
        assert!(store.list().unwrap().is_empty());
    }
}

#[test]
fn links_that_lead_round_in_a_circle_are_refused() {
    let text = refusal(|folder| {
        fs::remove_file(folder.join("model-2.safetensors")).unwrap();
        symlink("model-2.safetensors", folder.join("model-2.safetensors")).unwrap();
    });
    assert!(text.contains("model-2.safetensors"), "{text}");
}

#[test]
fn file_names_cannot_leave_the_folder() {
    for name in ["../model-1.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", "x\\y.safetensors"]
    {
        let index = json!({ "weight_map": { "a": name } });
        let text = refusal(|folder| {
            fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
        });
        assert!(text.contains("not the name of a safetensors file"), "{text}");
    }
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let missing_tensor = refusal(|folder| {
        fs::write(folder.join("model-2.safetensors"), safetensors(&[("c", vec![1.0])])).unwrap();
    });
    assert!(missing_tensor.contains("tensor `b`"), "{missing_tensor}");
    let twice = refusal(|folder| {
        fs::write(folder.join("model-2.safetensors"), safetensors(&[("b", vec![1.0]), ("a", vec![1.0])]))
            .unwrap();
    });
    assert!(twice.contains("tensor `a`"), "{twice}");
    let no_type = refusal(|folder| fs::write(folder.join("config.json"), "{}").unwrap());
    assert!(no_type.contains("model_type"), "{no_type}");
    let not_json = refusal(|folder| fs::write(folder.join("tokenizer.json"), "{").unwrap());
    assert!(not_json.contains("not JSON"), "{not_json}");
    let no_file = refusal(|folder| fs::remove_file(folder.join("model-2.safetensors")).unwrap());
    assert!(no_file.contains("model-2.safetensors"), "{no_file}");
    let no_index = refusal(|folder| fs::remove_file(folder.join("model.safetensors.index.json")).unwrap());
    assert!(no_index.contains("2 safetensors files"), "{no_index}");
}

#[test]
fn only_regular_files_are_read() {
    let text = refusal(|folder| {
        fs::remove_file(folder.join("model-2.safetensors")).unwrap();
        symlink("/dev/zero", folder.join("model-2.safetensors")).unwrap();
    });
    assert!(text.contains("not a regular file"), "{text}");
}

#[test]
fn safetensors_headers_are_bounded_and_checked() {
    let good = safetensors(&[("b", vec![1.0, 2.0])]);
    let mut huge = good.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut beyond = good.clone();
    beyond[..8].copy_from_slice(&(good.len() as u64).to_le_bytes());
    let spoiled = |from: &str, to: &str| {
        let text = String::from_utf8_lossy(&good).into_owned();
        assert!(text.contains(from));
        text.replacen(from, to, 1).into_bytes()
    };
    let cases = [
        huge,
        beyond,
        good[..good.len() - 1].to_vec(),
        [&good[..], &[0]].concat(),
        good[..5].to_vec(),
        Vec::new(),
        spoiled("[0,8]", "[8,0]"),
        spoiled("[0,8]", "[1,9]"),
        spoiled("[2]", "[3]"),
        spoiled("F32", "F33"),
    ];
    for case in cases {
        let text = refusal(|folder| fs::write(folder.join("model-2.safetensors"), &case).unwrap());
        assert!(text.contains("header"), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bytes_in_a_header_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
    ) {
        let root = TempDir::new().unwrap();
        let folder = huggingface_folder(&root.path().join("model"));
        let path = folder.join("model-2.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        for (place, value) in flips {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        fs::write(&path, bytes).unwrap();
        if let Ok((store, _)) = import(root.path()) {
            let artifact = store.resolve("model").unwrap();
            for (_, file) in artifact.files(FileRole::Weights) {
                artifact.open_blob(file).unwrap();
            }
        }
    }
}
