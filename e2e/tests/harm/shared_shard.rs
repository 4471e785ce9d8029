//! A shard that two models share survives the eviction of one.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::Read,
    os::unix::fs::symlink,
    process::{Command, Stdio},
};

use e2e::binary;
use serde_json::Value;
use tempfile::TempDir;

use crate::models::{Model, cache_tool, json, names, total};

/// Two models that share their second shard.
fn sharing(root: &TempDir) {
    Model::new(1).write(&root.path().join("old"));
    let mut new = Model::new(2);
    new.matrices[1] = Model::new(1).matrices.remove(1);
    new.write(&root.path().join("new"));
}

#[test]
fn an_import_keeps_the_shard_that_it_shares_with_what_goes() {
    let root = TempDir::new().unwrap();
    sharing(&root);
    assert!(cache_tool(root.path(), &["import", "old"]).status.success());
    // Either fits; both do not, though the shard counts once.
    let limit = (total(root.path()) + 500_000).to_string();
    let imported = json(root.path(), &["--max-size", &limit, "import", "new", "--json"]);
    assert_eq!(imported["evicted"][0]["names"][0], "old");
    let (size, new) = (imported["size"].as_u64().unwrap(), imported["new_bytes"].as_u64().unwrap());
    assert!(new < size * 6 / 10, "the shard is not stored again: {imported}");
    assert_eq!(names(root.path()), ["new"]);
    assert!(cache_tool(root.path(), &["verify"]).status.success());
    assert!(total(root.path()) <= limit.parse().unwrap());
}

/// As `pull` lays a download out: what the store has is a link.
#[test]
fn a_source_that_links_into_the_store_is_not_emptied_by_its_own_import() {
    let root = TempDir::new().unwrap();
    sharing(&root);
    let old = json(root.path(), &["import", "old", "--json"]);
    let digest = old["digest"].as_str().unwrap();
    let manifest = fs::read(root.path().join(format!("store/artifacts/{digest}.json"))).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let files = manifest["files"].as_array().unwrap();
    let shared = files.iter().find(|file| file["name"] == "model-2.safetensors").unwrap();
    let blob = shared["blob"].as_str().unwrap();
    let link = root.path().join("new/model-2.safetensors");
    fs::remove_file(&link).unwrap();
    symlink(root.path().join(format!("store/blobs/sha256/{}/{blob}", &blob[..2])), &link).unwrap();
    let limit = (total(root.path()) + 500_000).to_string();
    let output = cache_tool(root.path(), &["--max-size", &limit, "import", "new"]);
    // An import may refuse such a link; then it has removed nothing.
    let expected = if output.status.success() { "new" } else { "old" };
    assert_eq!(names(root.path()), [expected], "{output:?}");
    assert!(cache_tool(root.path(), &["verify"]).status.success());
}

/// While one process imports, another one prunes everything: they take turns, and neither breaks the other's model.
#[test]
fn what_one_process_imports_another_one_does_not_prune_half() {
    let root = TempDir::new().unwrap();
    sharing(&root);
    assert!(cache_tool(root.path(), &["import", "old"]).status.success());
    let start = |args: &[&str]| {
        let mut command = Command::new(binary("cache-tool"));
        command.args(args).current_dir(root.path()).env("KR_CACHE_DIR", root.path().join("store"));
        command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    };
    for _ in 0..5 {
        let mut all =
            [start(&["import", "new"]), start(&["prune", "--max-size", "1MB"]), start(&["import", "old"])];
        for child in &mut all {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            assert!(child.wait().unwrap().success(), "{said}");
        }
        assert!(cache_tool(root.path(), &["verify"]).status.success());
        let actions = json(root.path(), &["repair", "--dry-run", "--json"])["actions"].clone();
        assert_eq!(actions.as_array().unwrap().len(), 0, "{actions}");
    }
}
