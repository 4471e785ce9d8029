//! What commands print and how they end; each test with a store of its own.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{fs, path::Path};

use serde_json::Value;
use support::{COMMANDS, keys, test_env, text};
use test_support::safetensors::raw_safetensors;

#[test]
fn import_prints_the_digest_and_says_when_nothing_was_new() {
    let env = test_env();
    let first = env.run(&["import", &env.path("tiny.gguf"), "--name", "tiny"]);
    assert!(first.status.success() && text(&first.stderr).contains("new in the store"));
    let digest = text(&first.stdout).trim_end().to_owned();
    assert_eq!(digest.len(), 64);
    let second = env.run(&["import", &env.path("tiny.gguf"), "--name", "tiny"]);
    assert!(text(&second.stderr).contains("was stored already"), "{}", text(&second.stderr));
    assert_eq!(text(&second.stdout).trim_end(), digest);
}

#[test]
fn import_quantizes_and_says_that_the_name_moved() {
    let env = test_env();
    let matrix = ("a.weight", "F32", vec![2, 64], vec![0; 512]);
    fs::remove_file(env.path("folder/model.safetensors.index.json")).unwrap();
    fs::write(env.path("folder/model.safetensors"), raw_safetensors(&[matrix], 0)).unwrap();
    env.ok(&["import", &env.path("folder")]);
    let again = env.run(&["import", &env.path("folder"), "--quantize", "8"]);
    assert!(text(&again.stderr).contains("the name stood for"), "{}", text(&again.stderr));
    let json = env.json(&["inspect", "folder", "--json"]);
    assert_eq!(json["quantization"], serde_json::json!({ "bits": 8, "group_size": 64 }));
    assert_eq!(json["manifest"]["transforms"][0]["quantize"]["bits"], 8);

    for wrong in
        [&["--quantize", "7"][..], &["--group-size", "64"], &["--quantize", "4", "--group-size", "48"]]
    {
        let folder = env.path("folder");
        assert_eq!(env.fails(&[&["import", &folder], wrong].concat()).0, 2, "{wrong:?}");
    }
    let (_, error) = env.fails(&["import", &env.path("folder"), "--quantize", "mixed_5_6"]);
    assert!(error.contains("mixed_5_6") && error.contains("2, 3, 4, 5, 6, 8, mixed_2_6"), "{error}");
}

#[test]
fn inspect_knows_what_a_mode_implies() {
    let env = test_env();
    fs::remove_file(env.path("folder/model.safetensors.index.json")).unwrap();
    let tensors = [("a.weight", "U32", vec![2, 8], vec![0; 64]), ("a.scales", "U8", vec![2, 2], vec![0; 4])];
    fs::write(env.path("folder/model.safetensors"), raw_safetensors(&tensors, 0)).unwrap();
    let config = serde_json::json!({ "model_type": "llama", "quantization": { "mode": "mxfp4" } });
    fs::write(env.path("folder/config.json"), config.to_string()).unwrap();
    env.ok(&["import", &env.path("folder")]);
    let shown = env.ok(&["inspect", "folder"]);
    assert!(shown.contains("mxfp4, 4 bits, groups of 32"), "{shown}");
    assert_eq!(env.json(&["inspect", "folder", "--json"])["parameters"], 2 * 64);
}

#[test]
fn list_shows_what_was_imported() {
    let env = test_env();
    env.ok(&["import", &env.path("tiny.gguf"), "--name", "tiny"]);
    env.ok(&["import", &env.path("folder")]);
    let table = env.ok(&["list"]);
    assert!(table.contains("tiny") && table.contains("folder") && table.contains("llama"), "{table}");
    let json = env.json(&["list", "--json"]);
    let mut names: Vec<_> =
        json.as_array().unwrap().iter().map(|a| a["names"][0].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["folder", "tiny"]);
    assert!(json[0]["last_use"].as_u64().unwrap() > 1_600_000_000);
}

#[test]
fn inspect_shows_what_a_model_is_made_of() {
    let env = test_env();
    let digest = env.ok(&["import", &env.path("tiny.gguf"), "--name", "tiny"]);
    let facts = env.ok(&["inspect", "tiny"]);
    for fact in ["llama", "4 bits, groups of 32; model.embed_tokens 8 bits", "model.safetensors", "[0, 2]"] {
        assert!(facts.contains(fact), "{fact} in {facts}");
    }
    let json = env.json(&["inspect", &digest[..12], "--json"]);
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
    let env = test_env();
    env.ok(&["import", &env.path("tiny.gguf"), "--name", "tiny"]);
    assert_eq!(env.json(&["prune", "--json"])["removed"], Value::Array(Vec::new()), "100 GiB are plenty");
    assert_eq!(env.json(&["prune", "--keep", "1", "--json"])["removed"], Value::Array(Vec::new()));
    assert_eq!(env.fails(&["prune", "--older-than", "soon"]).0, 2);
    let dry = env.ok(&["prune", "--max-size", "1KiB", "--dry-run"]);
    assert!(dry.contains("tiny"));
    assert_eq!(env.json(&["list", "--json"]).as_array().unwrap().len(), 1);
    let report = env.json(&["prune", "--max-size", "0", "--json"]);
    assert_eq!((&report["size_after"], &report["removed"][0]["names"][0]), (&0.into(), &"tiny".into()));
    assert_eq!(env.json(&["list", "--json"]), Value::Array(Vec::new()));
}

#[test]
fn exit_codes_are_those_of_the_table() {
    let env = test_env();
    let (code, said) = env.fails(&["list"]);
    assert_eq!(code, 3, "{said}");
    assert!(!Path::new(&env.path("store")).exists(), "asking creates nothing");
    assert_eq!(env.fails(&["import", &env.path("nowhere")]).0, 1);
    assert_eq!(env.fails(&["import"]).0, 2);
    assert_eq!(env.fails(&["import", &env.path("tiny.gguf"), "--name", "../x"]).0, 2);

    fs::write(env.path("bad.gguf"), b"GGML").unwrap();
    let (code, said) = env.fails(&["import", &env.path("bad.gguf")]);
    assert_eq!(code, 4);
    assert!(said.starts_with("error: cannot import") && said.contains("not a GGUF file"), "{said}");

    env.ok(&["import", &env.path("tiny.gguf"), "--name", "tiny"]);
    let (code, said) = env.fails(&["inspect", "other"]);
    assert_eq!(code, 3);
    assert!(said.contains("stored are: tiny"), "{said}");

    let json = env.json(&["inspect", "tiny", "--json"]);
    let blob = json["manifest"]["files"][0]["blob"].as_str().unwrap();
    let blob = env.path(&format!("store/blobs/sha256/{}/{blob}", &blob[..2]));
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, b"short").unwrap();
    let (code, said) = env.fails(&["inspect", "tiny"]);
    assert_eq!(code, 5, "{said}");
    env.ok(&["import", &env.path("tiny.gguf"), "--name", "tiny"]);
    env.ok(&["inspect", "tiny"]);
}

#[test]
fn the_option_counts_more_than_the_environment() {
    let env = test_env();
    let other = env.path("other-store");
    env.ok(&["--store", &other, "import", &env.path("tiny.gguf"), "--name", "tiny"]);
    assert!(Path::new(&other).join("refs/tiny").exists());
    assert!(!Path::new(&env.path("store")).exists());
    assert!(env.ok(&["list", "--store", &other]).contains("tiny"));
}

#[test]
fn help_has_an_example_for_each_command() {
    let env = test_env();
    for command in COMMANDS {
        let help = env.ok(&[command, "--help"]);
        assert!(help.contains(&format!("Example: cache-tool {command}")), "{help}");
    }
    assert!(env.ok(&["--help"]).contains("Exit codes:"));
}

const ARTIFACT: [&str; 9] =
    ["digest", "names", "architecture", "base", "size", "imported_at", "last_use", "pinned", "state"];

/// Programs rely on these; docs/store.md lists them.
#[test]
fn json_has_the_documented_keys() {
    let env = test_env();
    let tiny = env.path("tiny.gguf");
    let imported = env.json(&["import", &tiny, "--name", "tiny", "--json"]);
    assert_eq!(
        keys(&imported),
        ["name", "digest", "size", "new_bytes", "already_stored", "replaced", "evicted"]
    );
    let with = |more: &[&'static str]| [&ARTIFACT[..], more].concat();
    assert_eq!(keys(&env.json(&["list", "--json"])[0]), ARTIFACT);
    let inspected = env.json(&["inspect", "tiny", "--json"]);
    let facts = [
        "in_use",
        "holders",
        "embedding_size",
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
    let usage = env.json(&["usage", "--json"]);
    assert_eq!(
        keys(&usage),
        ["artifacts", "total", "shared", "limit", "available", "quarantined", "unfinished"]
    );
    assert_eq!(keys(&usage["artifacts"][0]), with(&["unique", "shared"]));
    let pinned = env.json(&["pin", "tiny", "--json"]);
    assert_eq!(
        (keys(&pinned), &pinned["pinned"], &pinned["changed"]),
        (with(&["changed"]), &true.into(), &true.into())
    );
    assert_eq!(env.json(&["unpin", "tiny", "--json"])["pinned"], false);
    let pruned = env.json(&["prune", "--dry-run", "--json"]);
    assert_eq!(
        keys(&pruned),
        ["dry_run", "removed", "kept_in_use", "kept_pinned", "size_before", "size_after"]
    );
    let verified = env.json(&["verify", "--json"]);
    assert_eq!(keys(&verified), ["ok", "dry_run", "artifacts", "unreadable"]);
    assert_eq!(keys(&verified["artifacts"][0]), ["digest", "name", "blobs", "bytes", "failed"]);
    assert_eq!(keys(&env.json(&["repair", "--json"])), ["dry_run", "actions", "problems"]);
    let exported = env.json(&["export", "tiny", &env.path("out"), "--json"]);
    assert_eq!(keys(&exported), ["digest", "folder", "files", "bytes"]);
    let removed = env.json(&["remove", "tiny", "--json"]);
    assert_eq!(keys(&removed), ["names", "other_names", "artifact", "freed"]);
    assert_eq!(removed["freed"], imported["size"]);
}

#[test]
fn foreign_text_is_escaped_for_people_and_whole_for_programs() {
    let env = test_env();
    let evil = "x\u{1b}]0;owned\u{7}\u{9b}2J\nforged  line\u{202e}";
    let config = serde_json::json!({ "chat_template": [{ "name": evil, "template": "{{ messages }}" }] });
    std::fs::write(env.path("folder/tokenizer_config.json"), config.to_string()).unwrap();
    env.ok(&["import", &env.path("folder"), "--name", "evil"]);

    let shown = env.ok(&["inspect", "evil"]);
    assert!(shown.contains("x\\u{1b}]0;owned\\u{7}\\u{9b}2J\\nforged  line\\u{202e} ("), "{shown}");
    let unsafe_in = |text: &str| text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}');
    assert!(!unsafe_in(&shown), "{shown:?}");

    let json = env.ok(&["inspect", "evil", "--json"]);
    assert!(!unsafe_in(&json), "{json:?}");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json["chat_templates"].as_array().unwrap().contains(&evil.into()), "{json}");
}

#[test]
fn an_error_says_its_cause_once() {
    let env = test_env();
    let said = |args: &[&str]| env.fails(args).1;
    let absent = said(&["import", &env.path("absent")]);
    assert!(absent.ends_with("absent: No such file or directory (os error 2)\n"), "{absent}");
    std::fs::write(env.path("file"), "").unwrap();
    let store = env.path("file/store");
    let blocked = said(&["--store", &store, "import", &env.path("tiny.gguf")]);
    assert_eq!(blocked.matches("(os error").count(), 1, "{blocked}");
}
