//! Which weights files belong to the model.

use std::{fs, path::Path};

use artifact_store::StoreError;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    import, refusal,
    support::{huggingface_folder, safetensors},
};

const LAYERS: [&str; 3] =
    ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"];

/// A weights file: its name, and the names of its tensors.
type File<'a> = (&'a str, &'a [&'a str]);

/// A folder with this index and these files; names of the stored weights and warnings, or the error.
fn imported(index: &str, files: &[File<'_>]) -> Result<(Vec<String>, Vec<String>), StoreError> {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    for shard in ["model-1.safetensors", "model-2.safetensors"] {
        fs::remove_file(folder.join(shard)).unwrap();
    }
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    write_shards(&folder, files);
    let (store, imported) = import(root.path())?;
    let manifest = store.resolve("model").unwrap().manifest;
    let weights =
        manifest.files.into_iter().map(|file| file.name).filter(|name| name.ends_with(".safetensors"));
    Ok((weights.collect(), imported.warnings))
}

fn write_shards(folder: &Path, files: &[File<'_>]) {
    for (name, tensors) in files {
        let tensors: Vec<_> = tensors.iter().map(|tensor| (*tensor, vec![1.0, 2.0])).collect();
        fs::write(folder.join(name), safetensors(&tensors)).unwrap();
    }
}

fn index(places: &[(&str, &str)]) -> String {
    let map: serde_json::Map<_, _> =
        places.iter().map(|(tensor, file)| ((*tensor).to_owned(), (*file).into())).collect();
    json!({ "weight_map": map }).to_string()
}

#[test]
fn a_stale_index_beside_a_complete_file_is_told_and_not_used() {
    let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let [embedding, first, second] = LAYERS;
    let old = index(&[(embedding, one), (first, one), (second, two), ("lm_head.weight", two)]);
    let cases: [(&str, &[File<'_>]); 6] = [
        (&old, &[("model.safetensors", &LAYERS)]),
        (&old, &[("model.safetensors", &LAYERS), (one, &[embedding, first])]),
        // One that names the file itself, of a form with other tensors.
        (
            &index(&[("lm_head.weight", "model.safetensors"), (first, "model.safetensors")]),
            &[("model.safetensors", &LAYERS)],
        ),
        ("{", &[("model.safetensors", &LAYERS)]),
        ("{}", &[("model.safetensors", &LAYERS)]),
        (&index(&[(first, "../x.safetensors")]), &[("model.safetensors", &LAYERS)]),
    ];
    for (index, files) in cases {
        let (weights, warnings) = imported(index, files).unwrap();
        assert_eq!(weights, ["model.safetensors"]);
        assert!(warnings[0].contains("model.safetensors.index.json does not fit"), "{warnings:?}");
    }
}

#[test]
fn a_missing_shard_is_named_with_what_to_do() {
    let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let [embedding, first, second] = LAYERS;
    let both = index(&[(embedding, one), (first, one), (second, two)]);
    let cases: [&[File<'_>]; 4] = [
        &[(one, &[embedding, first])],
        &[(one, &[embedding, first]), ("consolidated.safetensors", &LAYERS)],
        // Not the whole model.
        &[(one, &[embedding, first]), ("model.safetensors", &["adapter"])],
        &[(one, &[embedding, first]), ("model.safetensors", &[embedding, first])],
    ];
    for files in cases {
        let error = imported(&both, files).unwrap_err();
        assert!(matches!(error, StoreError::BadSource { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(two) && text.contains("missing") && text.contains("download"), "{text}");
    }
}

#[test]
fn an_index_that_fits_is_used() {
    let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let [embedding, first, second] = LAYERS;
    let both = index(&[(embedding, one), (first, one), (second, two)]);
    let files: &[File<'_>] =
        &[(one, &[embedding, first]), (two, &[second]), ("consolidated.safetensors", &LAYERS)];
    let (weights, warnings) = imported(&both, files).unwrap();
    assert_eq!(weights, [one, two]);
    assert!(!warnings.iter().any(|warning| warning.contains("index")), "{warnings:?}");
}

/// `._model.safetensors`, which macOS writes beside a file on other file systems.
#[test]
fn attribute_files_of_macos_are_no_weights() {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    fs::remove_file(folder.join("model.safetensors.index.json")).unwrap();
    fs::remove_file(folder.join("model-1.safetensors")).unwrap();
    fs::write(folder.join("._model-2.safetensors"), b"\0\x05\x16\x07").unwrap();
    let (store, _) = import(root.path()).unwrap();
    assert_eq!(store.resolve("model").unwrap().manifest.tensors[0].name, "b");
}

#[test]
fn other_files_that_are_missing_are_named_too() {
    for name in ["config.json", "tokenizer.json", "model-1.safetensors"] {
        let text = refusal(|folder| fs::remove_file(folder.join(name)).unwrap());
        assert!(text.contains(name) && text.contains("missing"), "{text}");
    }
}
