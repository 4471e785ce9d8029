//! The real binary, each test with a store of its own.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../artifact-store/tests/support/mod.rs"]
mod support;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

const COMMANDS: [&str; 13] = [
    "pull",
    "import",
    "list",
    "inspect",
    "usage",
    "pin",
    "unpin",
    "remove",
    "prune",
    "verify",
    "repair",
    "export",
    "completions",
];

/// A closed world: a folder with a store, a GGUF file and a Hugging Face folder.
struct World {
    root: TempDir,
}

impl World {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        support::tiny_llama().write(&root.path().join("tiny.gguf"));
        support::huggingface_folder(&root.path().join("folder"));
        Self { root }
    }

    fn path(&self, name: &str) -> String {
        self.root.path().join(name).to_str().unwrap().to_owned()
    }

    #[must_use]
    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cache-tool"))
            .args(args)
            .env("KR_CACHE_DIR", self.root.path().join("store"))
            .env_remove("KR_CACHE_MAX_SIZE")
            .output()
            .unwrap()
    }

    /// Standard output of a command that succeeds.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    /// Exit code and standard error of a command that fails and prints no data.
    fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        assert!(output.stdout.is_empty(), "{args:?}: {}", text(&output.stdout));
        (output.status.code().unwrap(), text(&output.stderr))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn import_prints_the_digest_and_says_when_nothing_was_new() {
    let world = World::new();
    let first = world.run(&["import", &world.path("tiny.gguf"), "--name", "tiny"]);
    assert!(first.status.success() && text(&first.stderr).contains("new in the store"));
    let digest = text(&first.stdout).trim_end().to_owned();
    assert_eq!(digest.len(), 64);
    let second = world.run(&["import", &world.path("tiny.gguf"), "--name", "tiny"]);
    assert!(text(&second.stderr).contains("was stored already"), "{}", text(&second.stderr));
    assert_eq!(text(&second.stdout).trim_end(), digest);
}

#[test]
fn import_quantizes_and_says_that_the_name_moved() {
    let world = World::new();
    let matrix = ("a.weight", "F32", vec![2, 64], vec![0; 512]);
    fs::remove_file(world.path("folder/model.safetensors.index.json")).unwrap();
    fs::write(world.path("folder/model.safetensors"), support::raw_safetensors(&[matrix], 0)).unwrap();
    world.ok(&["import", &world.path("folder")]);
    let again = world.run(&["import", &world.path("folder"), "--quantize", "8"]);
    assert!(text(&again.stderr).contains("the name stood for"), "{}", text(&again.stderr));
    let json = world.json(&["inspect", "folder", "--json"]);
    assert_eq!(json["quantization"], serde_json::json!({ "bits": 8, "group_size": 64 }));
    assert_eq!(json["manifest"]["transforms"][0]["quantize"]["bits"], 8);

    for wrong in
        [&["--quantize", "5"][..], &["--group-size", "64"], &["--quantize", "4", "--group-size", "48"]]
    {
        let folder = world.path("folder");
        assert_eq!(world.fails(&[&["import", &folder], wrong].concat()).0, 2, "{wrong:?}");
    }
}

#[test]
fn list_shows_what_was_imported() {
    let world = World::new();
    world.ok(&["import", &world.path("tiny.gguf"), "--name", "tiny"]);
    world.ok(&["import", &world.path("folder")]);
    let table = world.ok(&["list"]);
    assert!(table.contains("tiny") && table.contains("folder") && table.contains("llama"), "{table}");
    let json = world.json(&["list", "--json"]);
    let mut names: Vec<_> =
        json.as_array().unwrap().iter().map(|a| a["names"][0].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["folder", "tiny"]);
    assert!(json[0]["last_use"].as_u64().unwrap() > 1_600_000_000);
}

#[test]
fn inspect_shows_what_a_model_is_made_of() {
    let world = World::new();
    let digest = world.ok(&["import", &world.path("tiny.gguf"), "--name", "tiny"]);
    let facts = world.ok(&["inspect", "tiny"]);
    for fact in ["llama", "4 bits, groups of 32; model.embed_tokens 8 bits", "model.safetensors", "[0, 2]"] {
        assert!(facts.contains(fact), "{fact} in {facts}");
    }
    let json = world.json(&["inspect", &digest[..12], "--json"]);
    assert_eq!(json["digest"], digest.trim_end());
    // Embedding 6 x 64; q and o 64 x 64; k and v 32 x 64; three of 96 x 64; three norms of 64.
    assert_eq!(json["parameters"], 6 * 64 + 2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64 + 3 * 64);
    assert_eq!(json["dtypes"]["U32"]["tensors"], 8);
    assert_eq!(json["manifest"]["files"][1]["name"], "tokenizer.json");
    let blob = json["manifest"]["files"][0]["blob"].as_str().unwrap();
    assert!(facts.contains(blob));
}

#[test]
fn prune_shows_first_and_then_removes() {
    let world = World::new();
    world.ok(&["import", &world.path("tiny.gguf"), "--name", "tiny"]);
    assert_eq!(world.json(&["prune", "--json"])["removed"], Value::Array(Vec::new()), "100 GiB are plenty");
    assert_eq!(world.json(&["prune", "--keep", "1", "--json"])["removed"], Value::Array(Vec::new()));
    assert_eq!(world.fails(&["prune", "--older-than", "soon"]).0, 2);
    let dry = world.ok(&["prune", "--max-size", "1KiB", "--dry-run"]);
    assert!(dry.contains("tiny"));
    assert_eq!(world.json(&["list", "--json"]).as_array().unwrap().len(), 1);
    let report = world.json(&["prune", "--max-size", "0", "--json"]);
    assert_eq!((&report["size_after"], &report["removed"][0]["names"][0]), (&0.into(), &"tiny".into()));
    assert_eq!(world.json(&["list", "--json"]), Value::Array(Vec::new()));
}

#[test]
fn exit_codes_are_those_of_the_table() {
    let world = World::new();
    let (code, said) = world.fails(&["list"]);
    assert_eq!(code, 3, "{said}");
    assert!(!Path::new(&world.path("store")).exists(), "asking creates nothing");
    assert_eq!(world.fails(&["import", &world.path("nowhere")]).0, 1);
    assert_eq!(world.fails(&["import"]).0, 2);
    assert_eq!(world.fails(&["import", &world.path("tiny.gguf"), "--name", "../x"]).0, 2);

    fs::write(world.path("bad.gguf"), b"GGML").unwrap();
    let (code, said) = world.fails(&["import", &world.path("bad.gguf")]);
    assert_eq!(code, 4);
    assert!(said.starts_with("error: cannot import") && said.contains("not a GGUF file"), "{said}");

    world.ok(&["import", &world.path("tiny.gguf"), "--name", "tiny"]);
    let (code, said) = world.fails(&["inspect", "other"]);
    assert_eq!(code, 3);
    assert!(said.contains("stored are: tiny"), "{said}");

    let json = world.json(&["inspect", "tiny", "--json"]);
    let blob = json["manifest"]["files"][0]["blob"].as_str().unwrap();
    let blob = world.path(&format!("store/blobs/sha256/{}/{blob}", &blob[..2]));
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, b"short").unwrap();
    let (code, said) = world.fails(&["inspect", "tiny"]);
    assert_eq!(code, 5, "{said}");
    world.ok(&["import", &world.path("tiny.gguf"), "--name", "tiny"]);
    world.ok(&["inspect", "tiny"]);
}

#[test]
fn the_option_counts_more_than_the_environment() {
    let world = World::new();
    let other = world.path("other-store");
    world.ok(&["--store", &other, "import", &world.path("tiny.gguf"), "--name", "tiny"]);
    assert!(Path::new(&other).join("refs/tiny").exists());
    assert!(!Path::new(&world.path("store")).exists());
    assert!(world.ok(&["list", "--store", &other]).contains("tiny"));
}

#[test]
fn help_has_an_example_for_each_command() {
    let world = World::new();
    for command in COMMANDS {
        let help = world.ok(&[command, "--help"]);
        assert!(help.contains(&format!("Example: cache-tool {command}")), "{help}");
    }
    assert!(world.ok(&["--help"]).contains("Exit codes:"));
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

const ARTIFACT: [&str; 8] =
    ["digest", "names", "architecture", "size", "imported_at", "last_use", "pinned", "state"];

/// Programs rely on these; docs/store.md lists them.
#[test]
fn json_has_the_documented_keys() {
    let world = World::new();
    let tiny = world.path("tiny.gguf");
    let imported = world.json(&["import", &tiny, "--name", "tiny", "--json"]);
    assert_eq!(
        keys(&imported),
        ["name", "digest", "size", "new_bytes", "already_stored", "replaced", "evicted"]
    );
    let with = |more: &[&'static str]| [&ARTIFACT[..], more].concat();
    assert_eq!(keys(&world.json(&["list", "--json"])[0]), ARTIFACT);
    let inspected = world.json(&["inspect", "tiny", "--json"]);
    let facts = [
        "in_use",
        "holders",
        "parameters",
        "quantization",
        "dtypes",
        "tokenizer",
        "chat_templates",
        "manifest",
    ];
    assert_eq!(keys(&inspected), with(&facts));
    assert_eq!((&inspected["in_use"], &inspected["tokenizer"]["tokens"]), (&false.into(), &6.into()));
    assert_eq!(inspected["chat_templates"][0], "default");
    let usage = world.json(&["usage", "--json"]);
    assert_eq!(
        keys(&usage),
        ["artifacts", "total", "shared", "limit", "available", "quarantined", "unfinished"]
    );
    assert_eq!(keys(&usage["artifacts"][0]), with(&["unique", "shared"]));
    let pinned = world.json(&["pin", "tiny", "--json"]);
    assert_eq!(
        (keys(&pinned), &pinned["pinned"], &pinned["changed"]),
        (with(&["changed"]), &true.into(), &true.into())
    );
    assert_eq!(world.json(&["unpin", "tiny", "--json"])["pinned"], false);
    let pruned = world.json(&["prune", "--dry-run", "--json"]);
    assert_eq!(
        keys(&pruned),
        ["dry_run", "removed", "kept_in_use", "kept_pinned", "size_before", "size_after"]
    );
    let verified = world.json(&["verify", "--json"]);
    assert_eq!(keys(&verified), ["ok", "dry_run", "artifacts", "unreadable"]);
    assert_eq!(keys(&verified["artifacts"][0]), ["digest", "name", "blobs", "bytes", "failed"]);
    assert_eq!(keys(&world.json(&["repair", "--json"])), ["dry_run", "actions", "problems"]);
    let exported = world.json(&["export", "tiny", &world.path("out"), "--json"]);
    assert_eq!(keys(&exported), ["digest", "folder", "files", "bytes"]);
    let removed = world.json(&["remove", "tiny", "--json"]);
    assert_eq!(keys(&removed), ["names", "other_names", "artifact", "freed"]);
    assert_eq!(removed["freed"], imported["size"]);
}

#[test]
fn a_pinned_artifact_is_removed_only_by_force() {
    let world = World::new();
    world.ok(&["import", &world.path("tiny.gguf"), "--name", "tiny"]);
    let said = text(&world.run(&["pin", "tiny"]).stderr);
    assert!(said.contains("tiny is now pinned"), "{said}");
    assert!(world.ok(&["list"]).contains("ready, pinned"));
    let (code, said) = world.fails(&["remove", "tiny"]);
    assert!(code == 7 && said.contains("cache-tool unpin tiny"), "{said}");
    let said = text(&world.run(&["prune", "--max-size", "0"]).stderr);
    assert!(said.contains("tiny is pinned and stays"), "{said}");
    let said = text(&world.run(&["remove", "tiny", "--force"]).stderr);
    assert!(said.contains("which frees"), "{said}");
    assert_eq!(world.fails(&["unpin", "tiny"]).0, 3);
}

/// Another process with a lease on `tiny`: what it locks is what a worker locks.
#[test]
fn who_holds_an_artifact_is_shown_and_keeps_it() {
    let world = World::new();
    let digest = world.ok(&["import", &world.path("tiny.gguf"), "--name", "tiny"]);
    let lease = world.path(&format!("store/leases/{}", digest.trim_end()));
    let lease = fs::File::open(lease).unwrap();
    lease.lock_shared().unwrap();
    let inspected = world.json(&["inspect", "tiny", "--json"]);
    assert_eq!(inspected["in_use"], true);
    let (code, said) = world.fails(&["remove", "tiny", "--force"]);
    assert!(code == 7 && said.contains("tiny is in use"), "{said}");
    if cfg!(target_os = "linux") {
        let own = std::process::id();
        assert_eq!(inspected["holders"][0]["pid"], own);
        assert!(said.contains(&format!("(process {own})")), "{said}");
    }
    drop(lease);
    world.ok(&["remove", "tiny"]);
}

#[test]
fn verify_sets_a_bad_file_aside_and_says_how_to_mend_it() {
    let world = World::new();
    world.ok(&["import", &world.path("tiny.gguf"), "--name", "tiny"]);
    assert!(world.ok(&["verify", "--jobs", "2"]).contains("good"));
    let json = world.json(&["inspect", "tiny", "--json"]);
    let blob = json["manifest"]["files"][0]["blob"].as_str().unwrap();
    let path = world.path(&format!("store/blobs/sha256/{}/{blob}", &blob[..2]));
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();

    let dry = world.run(&["verify", "tiny", "--dry-run", "--json"]);
    assert_eq!(dry.status.code(), Some(5));
    let dry: Value = serde_json::from_slice(&dry.stdout).unwrap();
    let failed = &dry["artifacts"][0]["failed"][0];
    assert_eq!(keys(failed), ["blob", "files", "reason", "quarantined", "path"]);
    assert!(dry["ok"] == false && failed["quarantined"] == false && Path::new(&path).exists());

    let run = world.run(&["verify"]);
    assert_eq!(run.status.code(), Some(5));
    assert!(text(&run.stdout).contains("1 bad") && text(&run.stderr).contains("same source again"));
    assert!(!Path::new(&path).exists());
    assert!(world.ok(&["list"]).contains("quarantined"));
    let (code, said) = world.fails(&["inspect", "tiny"]);
    assert!(code == 5 && said.contains("set aside"), "{said}");
    let repair = world.run(&["repair", "--json"]);
    let repair_json: Value = serde_json::from_slice(&repair.stdout).unwrap();
    assert_eq!((repair.status.code(), &repair_json["problems"][0]["problem"]), (Some(5), &"file".into()));

    let again = world.run(&["import", &world.path("tiny.gguf"), "--name", "tiny"]);
    assert!(text(&again.stderr).contains("mended"), "{}", text(&again.stderr));
    assert!(world.ok(&["verify"]).contains("good"));
}

#[test]
fn repair_shows_first_and_then_does() {
    let world = World::new();
    world.ok(&["import", &world.path("tiny.gguf"), "--name", "tiny"]);
    fs::write(world.path("store/tmp/half"), "half").unwrap();
    let dry = world.json(&["repair", "--dry-run", "--json"]);
    assert_eq!(dry["actions"][0]["action"], "remove-temporary");
    assert!(Path::new(&world.path("store/tmp/half")).exists());
    assert!(world.ok(&["repair"]).contains("remove unfinished work"));
    assert!(!Path::new(&world.path("store/tmp/half")).exists());
    assert_eq!(world.ok(&["repair"]), "");
}

#[test]
fn a_command_that_has_to_wait_says_so() {
    let world = World::new();
    world.ok(&["import", &world.path("tiny.gguf"), "--name", "tiny"]);
    let lock = fs::File::open(world.path("store/.lock")).unwrap();
    lock.lock().unwrap();
    let mut waits = Command::new(env!("CARGO_BIN_EXE_cache-tool"))
        .args(["--store", &world.path("store"), "remove", "tiny"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(waits.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("waiting for another process"), "{said}");
    // Looking, pinning and verifying wait for nobody.
    world.ok(&["list"]);
    world.ok(&["pin", "tiny"]);
    world.ok(&["verify"]);
    world.ok(&["unpin", "tiny"]);
    drop(lock);
    assert!(waits.wait().unwrap().success());
    assert_eq!(world.json(&["list", "--json"]), Value::Array(Vec::new()));
}

#[test]
fn the_limit_comes_from_the_option_the_environment_or_the_configuration() {
    let world = World::new();
    world.ok(&["import", &world.path("tiny.gguf"), "--name", "tiny"]);
    let limit = |args: &[&str]| world.json(&[&["usage", "--json"], args].concat())["limit"].as_u64().unwrap();
    assert_eq!(limit(&[]), 100 << 30);
    fs::write(world.path("runtime.yaml"), "worker: {}\ncache:\n  max_size_bytes: 3MiB\n").unwrap();
    let config = world.path("runtime.yaml");
    assert_eq!(limit(&["--config", &config]), 3 << 20);
    assert_eq!(limit(&["--config", &config, "--max-size", "5KiB"]), 5 << 10);
    let from_environment = Command::new(env!("CARGO_BIN_EXE_cache-tool"))
        .args(["usage", "--json"])
        .env("KR_CACHE_DIR", world.path("store"))
        .env("KR_CACHE_MAX_SIZE", "7MiB")
        .output()
        .unwrap();
    let json: Value = serde_json::from_slice(&from_environment.stdout).unwrap();
    assert_eq!(json["limit"], 7 << 20);
    fs::write(world.path("runtime.yaml"), "cache:\n  max_size_bytes: 3 bananas\n").unwrap();
    let (_, said) = world.fails(&["usage", "--config", &config]);
    assert!(said.contains("cache.max_size_bytes") && said.contains("3 bananas"), "{said}");

    // The second does not fit beside the first, which is used and therefore stays.
    let size = world.json(&["usage", "--json"])["total"].as_u64().unwrap();
    world.ok(&["pin", "tiny"]);
    let mut other = support::tiny_llama();
    other.tensors[1].data[0] = 9;
    other.write(world.root.path().join("other.gguf").as_path());
    let limit = (size + 10).to_string();
    let (code, said) = world.fails(&["import", &world.path("other.gguf"), "--max-size", &limit]);
    assert!(code == 6 && said.contains("unpin"), "{said}");
    world.ok(&["unpin", "tiny"]);
    let imported = world.json(&["import", &world.path("other.gguf"), "--max-size", &limit, "--json"]);
    assert_eq!(imported["evicted"][0]["names"][0], "tiny");
}

#[test]
fn an_export_is_a_folder_to_import() {
    let world = World::new();
    world.ok(&["import", &world.path("folder"), "--name", "one"]);
    let printed = world.ok(&["export", "one", &world.path("exported")]);
    assert_eq!(printed.trim_end(), world.path("exported"));
    let again = world.json(&["import", &world.path("exported"), "--name", "two", "--json"]);
    assert_eq!((&again["already_stored"], &again["new_bytes"]), (&true.into(), &0.into()));
    let (code, said) = world.fails(&["export", "one", &world.path("exported")]);
    assert!(code == 1 && said.contains("not an empty folder"), "{said}");
}

#[test]
fn completions_know_every_command() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = world.ok(&["completions", shell]);
        assert!(COMMANDS.iter().all(|command| script.contains(command)), "{shell}");
    }
    assert_eq!(world.fails(&["completions", "cmd"]).0, 2);
}
