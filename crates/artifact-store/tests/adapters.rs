//! Importing adapters of stored models.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use artifact_store::{Artifact, Dtype, Imported, Removed, SourceFormat, Store, StoreError, Transform};
use serde_json::{Value, json};
use support::{RawTensor, raw_safetensors, stored_tensor};
use tempfile::TempDir;
use test_support::{write_tiny_encoder, write_tiny_model};

const RANK: u64 = 2;
const Q_PROJ: &str = "model.layers.0.self_attn.q_proj";

/// A store with the model `base`.
struct Stored {
    root: TempDir,
    store: Store,
}

impl Stored {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        write_tiny_model(&root.path().join("base"));
        let store = Store::open(root.path().join("store")).unwrap();
        store.import(&root.path().join("base"), None, &mut |_| ControlFlow::Continue(())).unwrap();
        Self { root, store }
    }

    fn import(&self, folder: &Path) -> Result<Imported, StoreError> {
        self.store.import_adapter(folder, "base", Some("own"), &mut |_| ControlFlow::Continue(()))
    }

    fn artifact(&self) -> Artifact {
        self.store.resolve("base:own").unwrap()
    }

    /// What import says to such an adapter. Nothing of it is stored.
    fn refusal(&self, config: &Value, name: &str, tensors: &[RawTensor<'_>]) -> String {
        let before = support::files_below(&self.root.path().join("store"));
        let folder = self.folder(config, name, tensors);
        let text = self.import(&folder).unwrap_err().to_string();
        assert_eq!(support::files_below(&self.root.path().join("store")), before);
        text
    }

    fn folder(&self, config: &Value, name: &str, tensors: &[RawTensor<'_>]) -> PathBuf {
        let folder = self.root.path().join("adapter");
        drop(fs::remove_dir_all(&folder));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
        fs::write(folder.join(name), raw_safetensors(tensors, 0)).unwrap();
        folder
    }

    fn mlx(&self, tensors: &[RawTensor<'_>]) -> PathBuf {
        self.folder(&mlx_config(), MLX, tensors)
    }
}

const MLX: &str = "adapters.safetensors";
const PEFT: &str = "adapter_model.safetensors";

fn mlx_config() -> Value {
    json!({ "fine_tune_type": "lora", "num_layers": 1, "lora_parameters": { "rank": RANK, "scale": 2.0 } })
}

fn peft_config() -> Value {
    json!({ "peft_type": "LORA", "r": RANK, "lora_alpha": 4, "bias": "none" })
}

/// Of F32 numbers 0, 1, 2, …
fn tensor(name: &str, shape: [u64; 2]) -> RawTensor<'_> {
    let count = shape[0] * shape[1];
    (name, "F32", shape.to_vec(), (0..count).flat_map(|value| (value as f32).to_le_bytes()).collect())
}

fn names(module: &str) -> [String; 2] {
    ["lora_a", "lora_b"].map(|part| format!("{module}.{part}"))
}

#[test]
fn an_adapter_is_stored_as_it_is_and_names_its_base() {
    let stored = Stored::new();
    let [a, b] = names(Q_PROJ);
    let folder = stored.mlx(&[tensor(&a, [64, RANK]), tensor(&b, [RANK, 64])]);
    let imported = stored.import(&folder).unwrap();
    assert_eq!(imported.name, "base:own");
    let artifact = stored.artifact();
    let base = stored.store.resolve("base").unwrap();
    assert_eq!(artifact.manifest.base, Some(base.digest));
    assert_eq!(artifact.manifest.source.format, SourceFormat::MlxAdapter);
    assert_eq!(artifact.manifest.config, mlx_config());
    let bytes = fs::read(artifact.blob_path(&artifact.manifest.files[0])).unwrap();
    assert_eq!(bytes, fs::read(folder.join(MLX)).unwrap());
    let listed = stored.store.list().unwrap();
    let listed = listed.iter().find(|listed| listed.digest == artifact.digest).unwrap();
    assert_eq!((listed.base, &listed.names[..]), (Some(base.digest), &["base:own".to_owned()][..]));

    let again = stored.import(&folder).unwrap();
    assert!(again.already_stored && again.digest == imported.digest);
}

fn remove(stored: &Stored) -> Result<Removed, StoreError> {
    stored.store.remove("base:own", true, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn an_adapter_in_use_stays_and_an_exported_one_can_be_imported_again() {
    let stored = Stored::new();
    let [a, b] = names(Q_PROJ);
    stored.import(&stored.mlx(&[tensor(&a, [64, RANK]), tensor(&b, [RANK, 64])])).unwrap();
    let artifact = stored.artifact();
    assert!(matches!(remove(&stored), Err(StoreError::InUse { .. })));
    let folder = stored.root.path().join("exported");
    artifact.export(&folder, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(support::files_below(&folder), ["adapter_config.json", MLX]);
    let again = stored.import(&folder).unwrap();
    assert_eq!(again.digest, artifact.digest);
    drop(artifact);
    remove(&stored).unwrap();
    assert!(stored.store.resolve("base:own").is_err());
}

#[test]
fn a_file_of_peft_becomes_one_of_mlx_lm() {
    let stored = Stored::new();
    let peft = |part: &str| format!("base_model.model.{Q_PROJ}.{part}.weight");
    let (a, b) = (peft("lora_A"), peft("lora_B"));
    let folder = stored.folder(&peft_config(), PEFT, &[tensor(&a, [RANK, 64]), tensor(&b, [64, RANK])]);
    stored.import(&folder).unwrap();
    let artifact = stored.artifact();
    assert_eq!(artifact.manifest.transforms, [Transform::ConvertAdapter]);
    assert_eq!(artifact.manifest.config["lora_parameters"]["scale"], 2.0);
    let [a, b] = names(Q_PROJ);
    let (dtype, shape, bytes) = stored_tensor(&artifact, &a);
    assert_eq!((dtype, &shape[..]), (Dtype::F32, &[64, RANK][..]));
    let value = |at: usize| f32::from_le_bytes(bytes[at * 4..][..4].try_into().unwrap());
    assert_eq!([value(0), value(1), value(2), value(127)], [0.0, 64.0, 1.0, 127.0], "transposed");
    assert_eq!(stored_tensor(&artifact, &b).1, [RANK, 64]);
}

#[test]
fn a_file_that_is_not_aligned_is_written_anew() {
    let stored = Stored::new();
    let [a, b] = names(Q_PROJ);
    let folder = stored.mlx(&[]);
    let bytes = raw_safetensors(&[tensor(&a, [64, RANK]), tensor(&b, [RANK, 64])], 1);
    fs::write(folder.join(MLX), bytes).unwrap();
    stored.import(&folder).unwrap();
    let artifact = stored.artifact();
    assert_eq!(artifact.manifest.transforms, [Transform::Align]);
    assert_eq!(stored_tensor(&artifact, &a).2, tensor(&a, [64, RANK]).3);
}

#[test]
fn what_does_not_fit_the_base_is_refused_by_name() {
    let stored = Stored::new();
    let refusal = |module: &str, shapes: [[u64; 2]; 2]| {
        let [a, b] = names(module);
        stored.refusal(&mlx_config(), MLX, &[tensor(&a, shapes[0]), tensor(&b, shapes[1])])
    };
    let text = refusal(Q_PROJ, [[32, RANK], [RANK, 64]]);
    assert!(text.contains("32 inputs and 64 outputs") && text.contains("[64, 64]"), "{text}");
    let text = refusal(Q_PROJ, [[64, RANK], [RANK, 65]]);
    assert!(text.contains("65 outputs"), "{text}");
    let text = refusal(Q_PROJ, [[64, 3], [3, 64]]);
    assert!(text.contains("says rank 2"), "{text}");
    let text = refusal("model.layers.1.self_attn.q_proj", [[64, RANK], [RANK, 64]]);
    assert!(text.contains("which the base does not have") && text.contains("`base`"), "{text}");
    for module in ["model.embed_tokens", "model.layers.0.mlp.switch_mlp.up_proj"] {
        let text = refusal(module, [[64, RANK], [RANK, 64]]);
        assert!(text.contains(module) && text.contains("can't be served"), "{text}");
    }
    let [a, _] = names(Q_PROJ);
    let text = stored.refusal(&mlx_config(), MLX, &[tensor(&a, [64, RANK])]);
    assert!(text.contains("only one of"), "{text}");
    assert!(stored.refusal(&mlx_config(), MLX, &[]).contains("no matrices"));
    let text = stored.refusal(&mlx_config(), MLX, &[(&a, "I32", vec![64, RANK], vec![0; 512])]);
    assert!(text.contains("I32"), "{text}");
    let text = stored.refusal(&json!({ "fine_tune_type": "dora" }), MLX, &[]);
    assert!(text.contains("DoRA") && text.contains("mlx_lm.fuse"), "{text}");
}

#[test]
fn names_are_those_of_a_stored_model_and_of_the_adapter() {
    let stored = Stored::new();
    let [a, b] = names(Q_PROJ);
    let folder = stored.mlx(&[tensor(&a, [64, RANK]), tensor(&b, [RANK, 64])]);
    let import = |base: &str, name: Option<&str>| {
        stored.store.import_adapter(&folder, base, name, &mut |_| ControlFlow::Continue(()))
    };
    assert_eq!(import("base", None).unwrap().name, "base:adapter");
    assert!(matches!(import("absent", None), Err(StoreError::UnknownArtifact { .. })));
    assert!(matches!(import("base", Some("a:b")), Err(StoreError::BadName(_))));
    assert!(matches!(import("base:adapter", Some("a")), Err(StoreError::BadName(_))));
    let digest = stored.store.locate("base:adapter").unwrap().to_string();
    let model = stored.root.path().join("base");
    let as_model = stored.store.import(&model, Some("base:x"), &mut |_| ControlFlow::Continue(()));
    assert!(matches!(as_model, Err(StoreError::BadName(_))), "a model has no colon in its name");
    assert!(matches!(import(&digest, None), Err(StoreError::BadName(_))));
    assert!(
        stored
            .store
            .import_adapter(&folder.join(MLX), "base", Some("x"), &mut |_| ControlFlow::Continue(()))
            .is_err()
    );
}

#[test]
fn a_model_that_embeds_takes_no_adapter() {
    let stored = Stored::new();
    let encoder = stored.root.path().join("encoder");
    write_tiny_encoder(&encoder);
    stored.store.import(&encoder, Some("encoder"), &mut |_| ControlFlow::Continue(())).unwrap();
    // It is refused whatever is in the folder.
    let folder = stored.folder(&json!({}), "adapters.safetensors", &[]);
    let refused =
        stored.store.import_adapter(&folder, "encoder", Some("own"), &mut |_| ControlFlow::Continue(()));
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("`encoder` embeds text"), "{text}");
}
