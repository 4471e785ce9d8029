//! Keeping a store in order: pins, holds, damage, repair, limits, export.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;
use support::{COMMANDS, keys, test_env, text};
use test_support::gguf::tiny_llama;

#[test]
fn a_pinned_artifact_is_removed_only_by_force() {
    let env = test_env();
    env.ok(&["import", &env.path("tiny.gguf"), "--name", "tiny"]);
    let said = text(&env.run(&["pin", "tiny"]).stderr);
    assert!(said.contains("tiny is now pinned"), "{said}");
    assert!(env.ok(&["list"]).contains("ready, pinned"));
    let (code, said) = env.fails(&["remove", "tiny"]);
    assert!(code == 7 && said.contains("cache-tool unpin tiny"), "{said}");
    let said = text(&env.run(&["prune", "--max-size", "0"]).stderr);
    assert!(said.contains("tiny is pinned and stays"), "{said}");
    let said = text(&env.run(&["remove", "tiny", "--force"]).stderr);
    assert!(said.contains("which frees"), "{said}");
    assert_eq!(env.fails(&["unpin", "tiny"]).0, 3);
}

/// Another process with a lease on `tiny`: what it locks is what a worker locks.
#[test]
fn who_holds_an_artifact_is_shown_and_keeps_it() {
    let env = test_env();
    let digest = env.ok(&["import", &env.path("tiny.gguf"), "--name", "tiny"]);
    let lease = env.path(&format!("store/leases/{}", digest.trim_end()));
    let lease = fs::File::open(lease).unwrap();
    lease.lock_shared().unwrap();
    let inspected = env.json(&["inspect", "tiny", "--json"]);
    assert_eq!(inspected["in_use"], true);
    let (code, said) = env.fails(&["remove", "tiny", "--force"]);
    assert!(code == 7 && said.contains("tiny is in use"), "{said}");
    if cfg!(target_os = "linux") {
        let own = std::process::id();
        assert_eq!(inspected["holders"][0]["pid"], own);
        assert!(said.contains(&format!("(process {own})")), "{said}");
    }
    drop(lease);
    env.ok(&["remove", "tiny"]);
}

#[test]
fn verify_sets_a_bad_file_aside_and_says_how_to_mend_it() {
    let env = test_env();
    env.ok(&["import", &env.path("tiny.gguf"), "--name", "tiny"]);
    assert!(env.ok(&["verify", "--jobs", "2"]).contains("good"));
    let json = env.json(&["inspect", "tiny", "--json"]);
    let blob = json["manifest"]["files"][0]["blob"].as_str().unwrap();
    let path = env.path(&format!("store/blobs/sha256/{}/{blob}", &blob[..2]));
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();

    let dry = env.run(&["verify", "tiny", "--dry-run", "--json"]);
    assert_eq!(dry.status.code(), Some(5));
    let dry: Value = serde_json::from_slice(&dry.stdout).unwrap();
    let failed = &dry["artifacts"][0]["failed"][0];
    assert_eq!(keys(failed), ["blob", "files", "reason", "quarantined", "path"]);
    assert!(dry["ok"] == false && failed["quarantined"] == false && Path::new(&path).exists());

    let run = env.run(&["verify"]);
    assert_eq!(run.status.code(), Some(5));
    assert!(text(&run.stdout).contains("1 bad") && text(&run.stderr).contains("same source again"));
    assert!(!Path::new(&path).exists());
    assert!(env.ok(&["list"]).contains("quarantined"));
    let (code, said) = env.fails(&["inspect", "tiny"]);
    assert!(code == 5 && said.contains("set aside"), "{said}");
    let repair = env.run(&["repair", "--json"]);
    let repair_json: Value = serde_json::from_slice(&repair.stdout).unwrap();
    assert_eq!((repair.status.code(), &repair_json["problems"][0]["problem"]), (Some(5), &"file".into()));

    let again = env.run(&["import", &env.path("tiny.gguf"), "--name", "tiny"]);
    assert!(text(&again.stderr).contains("mended"), "{}", text(&again.stderr));
    assert!(env.ok(&["verify"]).contains("good"));
}

#[test]
fn repair_shows_first_and_then_does() {
    let env = test_env();
    env.ok(&["import", &env.path("tiny.gguf"), "--name", "tiny"]);
    fs::write(env.path("store/tmp/half"), "half").unwrap();
    let dry = env.json(&["repair", "--dry-run", "--json"]);
    assert_eq!(dry["actions"][0]["action"], "remove-temporary");
    assert!(Path::new(&env.path("store/tmp/half")).exists());
    assert!(env.ok(&["repair"]).contains("remove unfinished work"));
    assert!(!Path::new(&env.path("store/tmp/half")).exists());
    assert_eq!(env.ok(&["repair"]), "");
}

#[test]
fn a_command_that_has_to_wait_says_so() {
    let env = test_env();
    env.ok(&["import", &env.path("tiny.gguf"), "--name", "tiny"]);
    let lock = fs::File::open(env.path("store/.lock")).unwrap();
    lock.lock().unwrap();
    let mut waits = Command::new(env!("CARGO_BIN_EXE_cache-tool"))
        .args(["--store", &env.path("store"), "remove", "tiny"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut stderr = BufReader::new(waits.stderr.take().unwrap());
    stderr.read_line(&mut said).unwrap();
    assert!(said.contains("waiting for another process"), "{said}");
    // Looking, pinning and verifying wait for nobody.
    env.ok(&["list"]);
    env.ok(&["pin", "tiny"]);
    env.ok(&["verify"]);
    env.ok(&["unpin", "tiny"]);
    drop(lock);
    stderr.read_to_string(&mut said).unwrap();
    assert!(waits.wait().unwrap().success(), "{said}");
    assert_eq!(env.json(&["list", "--json"]), Value::Array(Vec::new()));
}

#[test]
fn the_limit_comes_from_the_option_the_environment_or_the_configuration() {
    let env = test_env();
    env.ok(&["import", &env.path("tiny.gguf"), "--name", "tiny"]);
    let limit = |args: &[&str]| env.json(&[&["usage", "--json"], args].concat())["limit"].as_u64().unwrap();
    assert_eq!(limit(&[]), 100 << 30);
    fs::write(env.path("runtime.yaml"), "workers: {count: 2}\ncache:\n  max_size_bytes: 3MiB\n").unwrap();
    let config = env.path("runtime.yaml");
    assert_eq!(limit(&["--config", &config]), 3 << 20);
    assert_eq!(limit(&["--config", &config, "--max-size", "5KiB"]), 5 << 10);
    let from_environment = Command::new(env!("CARGO_BIN_EXE_cache-tool"))
        .args(["usage", "--json"])
        .env("KR_CACHE_DIR", env.path("store"))
        .env("KR_CACHE_MAX_SIZE", "7MiB")
        .output()
        .unwrap();
    let json: Value = serde_json::from_slice(&from_environment.stdout).unwrap();
    assert_eq!(json["limit"], 7 << 20);
    fs::write(env.path("runtime.yaml"), "cache:\n  max_size_bytes: 3 bananas\n").unwrap();
    let (_, said) = env.fails(&["usage", "--config", &config]);
    assert!(said.contains("cache.max_size_bytes") && said.contains("3 bananas"), "{said}");

    // The file means what it means to the gateway.
    let written = |text: &str| fs::write(env.path("runtime.yaml"), text).unwrap();
    for (text, bytes) in [("1GB", 1_000_000_000), ("1_024 KiB", 1 << 20), ("4096", 4096)] {
        written(&format!("cache: {{max_size_bytes: {text}}}\n"));
        assert_eq!(limit(&["--config", &config]), bytes, "{text}");
        assert_eq!(limit(&["--max-size", text]), bytes, "{text}");
    }
    written("# nothing\n");
    assert_eq!(limit(&["--config", &config]), 100 << 30);
    written("cache:\n  max_size_byte: 3MiB\n");
    for more in [&[][..], &["--max-size", "5KiB"]] {
        let (code, said) = env.fails(&[&["usage", "--config", &config], more].concat());
        assert_eq!(code, 1);
        let expected =
            "runtime.yaml:2: `cache.max_size_byte` is not a known key; did you mean `cache.max_size_bytes`?";
        assert!(said.contains(expected), "{said}");
    }
    let (_, said) = env.fails(&["usage", "--config", &env.path("absent.yaml")]);
    assert_eq!(said.matches("No such file").count(), 1, "{said}");

    // The second does not fit beside the first, which is used and therefore stays.
    let size = env.json(&["usage", "--json"])["total"].as_u64().unwrap();
    env.ok(&["pin", "tiny"]);
    let mut other = tiny_llama();
    other.tensors[1].data[0] = 9;
    other.write(env.path("other.gguf").as_ref());
    let limit = (size + 10).to_string();
    let (code, said) = env.fails(&["import", &env.path("other.gguf"), "--max-size", &limit]);
    assert!(code == 6 && said.contains("unpin"), "{said}");
    env.ok(&["unpin", "tiny"]);
    let imported = env.json(&["import", &env.path("other.gguf"), "--max-size", &limit, "--json"]);
    assert_eq!(imported["evicted"][0]["names"][0], "tiny");
}

#[test]
fn an_export_is_a_folder_to_import() {
    let env = test_env();
    env.ok(&["import", &env.path("folder"), "--name", "one"]);
    let printed = env.ok(&["export", "one", &env.path("exported")]);
    assert_eq!(printed.trim_end(), env.path("exported"));
    let again = env.json(&["import", &env.path("exported"), "--name", "two", "--json"]);
    assert_eq!((&again["already_stored"], &again["new_bytes"]), (&true.into(), &0.into()));
    let (code, said) = env.fails(&["export", "one", &env.path("exported")]);
    assert!(code == 1 && said.contains("not an empty folder"), "{said}");
}

#[test]
fn completions_know_every_command() {
    let env = test_env();
    for shell in ["bash", "zsh", "fish"] {
        let script = env.ok(&["completions", shell]);
        assert!(COMMANDS.iter().all(|command| script.contains(command)), "{shell}");
    }
    assert_eq!(env.fails(&["completions", "cmd"]).0, 2);
}

/// Other systems refuse such names.
#[cfg(target_os = "linux")]
#[test]
fn paths_may_have_any_bytes() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    let env = test_env();
    let store = Path::new(&env.path("")).join(OsStr::from_bytes(b"st\xffore"));
    let run = |args: &[&str]| {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_cache-tool"));
        tool.arg("--store").arg(&store).args(args).output().unwrap()
    };
    assert!(run(&["import", &env.path("tiny.gguf"), "--name", "tiny"]).status.success());
    fs::write(store.join("artifacts/a\u{1b}[2J\nforged"), "").unwrap();
    let json: Value = serde_json::from_slice(&run(&["repair", "--json"]).stdout).unwrap();
    let path = json["problems"][0]["path"].as_str().unwrap();
    assert!(path.ends_with("st\u{fffd}ore/artifacts/a\u{1b}[2J\nforged"), "{path:?}");
    let said = text(&run(&["repair"]).stderr);
    assert!(said.contains("a\\u{1b}[2J\\nforged") && !said.contains('\u{1b}'), "{said:?}");
}
