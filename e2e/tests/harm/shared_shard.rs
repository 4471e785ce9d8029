//! A shard that two models share survives the eviction of one.
#![allow(clippy::unwrap_used)]

use std::{fs, io::Read, os::unix::fs::symlink, process::Stdio};

use serde_json::Value;
use test_support::TestEnv;

use crate::models::{Model, cache_tool, names, total};

/// Two models that share their second shard.
fn sharing(tool: &TestEnv) {
    Model::new(1).write(tool.path("old").as_ref());
    let mut new = Model::new(2);
    new.matrices[1] = Model::new(1).matrices.remove(1);
    new.write(tool.path("new").as_ref());
}

#[test]
fn an_import_keeps_the_shard_that_it_shares_with_what_goes() {
    let tool = cache_tool();
    sharing(&tool);
    tool.ok(&["import", "old"]);
    // Either fits; both do not, though the shard counts once.
    let limit = (total(&tool) + 500_000).to_string();
    let imported = tool.json(&["--max-size", &limit, "import", "new", "--json"]);
    assert_eq!(imported["evicted"][0]["names"][0], "old");
    let (size, new) = (imported["size"].as_u64().unwrap(), imported["new_bytes"].as_u64().unwrap());
    assert!(new < size * 6 / 10, "the shard is not stored again: {imported}");
    assert_eq!(names(&tool), ["new"]);
    tool.ok(&["verify"]);
    assert!(total(&tool) <= limit.parse().unwrap());
}

/// As `pull` lays a download out: what the store has is a link.
#[test]
fn a_source_that_links_into_the_store_is_not_emptied_by_its_own_import() {
    let tool = cache_tool();
    sharing(&tool);
    let old = tool.json(&["import", "old", "--json"]);
    let digest = old["digest"].as_str().unwrap();
    let manifest = fs::read(tool.path(&format!("store/artifacts/{digest}.json"))).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let files = manifest["files"].as_array().unwrap();
    let shared = files.iter().find(|file| file["name"] == "model-2.safetensors").unwrap();
    let blob = shared["blob"].as_str().unwrap();
    let link = tool.path("new/model-2.safetensors");
    fs::remove_file(&link).unwrap();
    symlink(tool.path(&format!("store/blobs/sha256/{}/{blob}", &blob[..2])), &link).unwrap();
    let limit = (total(&tool) + 500_000).to_string();
    let output = tool.run(&["--max-size", &limit, "import", "new"]);
    // An import may refuse such a link; then it has removed nothing.
    let expected = if output.status.success() { "new" } else { "old" };
    assert_eq!(names(&tool), [expected], "{output:?}");
    tool.ok(&["verify"]);
}

/// While one process imports, another one prunes everything: they take turns, and neither breaks the other's model.
#[test]
fn what_one_process_imports_another_one_does_not_prune_half() {
    let tool = cache_tool();
    sharing(&tool);
    tool.ok(&["import", "old"]);
    let start = |args: &[&str]| {
        let mut command = tool.command(args);
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
        tool.ok(&["verify"]);
        let actions = tool.json(&["repair", "--dry-run", "--json"])["actions"].clone();
        assert_eq!(actions.as_array().unwrap().len(), 0, "{actions}");
    }
}
