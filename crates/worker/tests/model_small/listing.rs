//! What a gateway is told of the store's models.

use std::{fs, ops::ControlFlow, path::Path};

use artifact_store::Store;
use protocol::{message::FailureKind, stored::StoredModel};
use serde_json::json;
use worker::list_models;

use super::tiny::{Spec, Tiny};

/// Imports a model of this seed under `name`, and returns its digest.
fn store_model(store: &Store, folder: &Path, name: &str, seed: u64, model_type: &str) -> String {
    let source = folder.join(format!("source-{seed}"));
    fs::create_dir(&source).unwrap();
    let mut tiny = Tiny::new(Spec::default(), seed);
    tiny.config["model_type"] = json!(model_type);
    tiny.write(&source);
    let imported = store.import(&source, Some(name), &mut |_| ControlFlow::Continue(())).unwrap();
    imported.digest.to_string()
}

fn listed(folder: &Path) -> Vec<StoredModel> {
    let mut printed = Vec::new();
    list_models::print(Some(&folder.join("store")), &mut printed).unwrap();
    serde_json::from_slice(&printed).unwrap()
}

#[test]
fn the_store_is_listed_by_name_and_says_what_can_not_be_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("store")).unwrap();
    assert_eq!(listed(folder.path()), []);
    let replaced = store_model(&store, folder.path(), "org/b", 1, "llama");
    let b = store_model(&store, folder.path(), "org/b", 2, "llama");
    let a = store_model(&store, folder.path(), "a", 3, "mamba");
    let c = store_model(&store, folder.path(), "c", 4, "llama");
    fs::write(folder.path().join(format!("store/artifacts/{c}.json")), "{").unwrap();

    let models = listed(folder.path());
    let ids: Vec<_> = models.iter().map(|model| (model.id(), model.digest.as_str())).collect();
    assert_eq!(ids, [("a", &*a), ("c", &*c), ("org/b", &*b), (&*replaced, &*replaced)]);
    let [unsupported, damaged, good, unnamed] = &models[..] else { panic!("{models:?}") };
    assert_eq!((good.context_length, good.architecture.as_deref()), (Some(512), Some("llama")));
    assert!(good.size > 100_000 && good.imported_at > 1_700_000_000, "{good:?}");
    assert!(good.weight_bytes > good.size / 2 && good.weight_bytes < good.size, "{good:?}");
    let Spec { layers, kv_heads, head_dim, .. } = Spec::default();
    assert_eq!(good.kv_token_values, (2 * layers * kv_heads * head_dim) as u64);
    assert_eq!((&good.defect, &unnamed.defect), (&None, &None));
    let defect = unsupported.defect.as_ref().unwrap();
    assert_eq!(defect.kind, FailureKind::Internal);
    assert!(defect.message.contains("`mamba`") && defect.message.contains("`llama`"), "{defect:?}");
    assert_eq!(damaged.defect.as_ref().unwrap().kind, FailureKind::DamagedModel);
}

#[test]
fn a_store_that_is_not_there_is_an_error_and_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent");
    let error = list_models::list(Some(&absent)).unwrap_err().to_string();
    assert!(error.contains("absent") && error.contains("cache-tool"), "{error}");
    assert!(!absent.exists());
}
