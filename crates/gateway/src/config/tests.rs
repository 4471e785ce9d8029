#![allow(clippy::unwrap_used)]

use std::{path::Path, time::Duration};

use protocol::options::{self, WorkerOptions};

use super::{Config, Verify, check::parse_bytes};
use crate::cli::Flags;

fn load(text: &str) -> Result<Config, String> {
    load_with(text, &Flags { models: vec!["tiny".into()], ..Flags::default() })
}

fn load_with(text: &str, flags: &Flags) -> Result<Config, String> {
    Config::from_text(Path::new("runtime.yaml"), text, flags).map_err(|e| e.to_string())
}

#[test]
fn shipped_file_says_the_defaults() {
    let shipped = include_str!("../../../../config/runtime.yaml");
    assert_eq!(load(shipped).unwrap(), load("").unwrap());
}

#[test]
fn comments_alone_are_all_defaults() {
    assert_eq!(load("# nothing\n").unwrap(), load("").unwrap());
}

#[test]
fn unknown_key_is_refused_with_its_line_and_the_known_keys() {
    let error = load("server:\n  port: 1\nbatch_queue:\n  max_bach_size: 3\n").unwrap_err();
    assert!(error.starts_with("runtime.yaml:4:"), "{error}");
    assert!(error.contains("max_bach_size") && error.contains("flush_interval_ms"), "{error}");
}

#[test]
fn unknown_section_is_refused_with_its_line_and_the_known_sections() {
    let error = load("servers:\n  port: 1\n").unwrap_err();
    assert!(error.starts_with("runtime.yaml:1:"), "{error}");
    assert!(error.contains("servers") && error.contains("stream_registry"), "{error}");
}

#[test]
fn wrong_type_is_refused_with_its_line() {
    let error = load("server:\n  host: x\n  port: many\n").unwrap_err();
    assert!(error.starts_with("runtime.yaml:3:"), "{error}");
}

#[test]
fn broken_yaml_is_refused_with_its_line() {
    let error = load("server:\n  port: [1\nworkers:\n").unwrap_err();
    assert!(error.starts_with("runtime.yaml:"), "{error}");
    assert!(!error.starts_with("runtime.yaml:0"), "{error}");
}

#[test]
fn values_out_of_range_are_refused_with_line_and_range() {
    for (text, expected) in [
        ("\nserver:\n  port: 70000\n", "runtime.yaml:3: `server.port` is 70000, but must be from 0 to 65535"),
        ("workers:\n  count: 0\n", "runtime.yaml:2: `workers.count` is 0, but must be from 1 to 64"),
        (
            "workers:\n  ring_bytes: 70000\n",
            "runtime.yaml:2: `workers.ring_bytes` is 70000, but must be a power of two",
        ),
        (
            "stream_registry:\n  adaptive_limits:\n    min_streams: 9\n    max_streams: 8\n",
            "runtime.yaml:4: `stream_registry.adaptive_limits.max_streams` is 8, less than `min_streams` (9)",
        ),
        (
            "batch_queue:\n  flush_interval_ms: 5\n",
            "runtime.yaml:2: `batch_queue.flush_interval_ms` is 5, but must be from 0 to 4",
        ),
        (
            "cache:\n  max_size_bytes: 10 bananas\n",
            "runtime.yaml:2: `cache.max_size_bytes` is `10 bananas`, but must be a number of bytes, or one with KiB, MiB, GiB or TiB",
        ),
        ("model: ''\n", ""),
    ] {
        match load(text) {
            Err(error) => assert_eq!(error, expected, "{text}"),
            Ok(_) => assert_eq!(expected, "", "{text} was accepted"),
        }
    }
}

#[test]
fn a_store_size_may_be_a_number_or_a_text() {
    let size =
        |text: &str| load(&format!("cache:\n  max_size_bytes: {text}\n")).map(|c| c.cache_max_size_bytes);
    assert_eq!(size("100GiB").unwrap(), 100 << 30);
    assert_eq!(size("1048576").unwrap(), 1 << 20);
    assert_eq!(size("\"2 TiB\"").unwrap(), 2 << 40);
    assert!(size("0").is_err() && size("-5").is_err() && size("[1]").is_err());
}

#[test]
fn bytes_are_parsed_or_refused() {
    assert_eq!(parse_bytes("1.5GiB"), Some(3 << 29));
    assert_eq!(parse_bytes("1_024 B"), Some(1024));
    for bad in ["", "GiB", "1.5", "1GB", "99999999999999999999", "99999999TiB", "-1", "1.2.3MiB"] {
        assert_eq!(parse_bytes(bad), None, "{bad}");
    }
}

#[test]
fn flags_beat_the_file() {
    let flags = Flags {
        host: Some("::1".into()),
        port: Some(0),
        workers: Some(3),
        models: vec!["flag".into(), "another".into()],
        ..Flags::default()
    };
    let text =
        "model: file\nserver:\n  host: 0.0.0.0\n  port: 9\n  drain_timeout_ms: 7\nworkers:\n  count: 2\n";
    let config = load_with(text, &flags).unwrap();
    assert_eq!((config.server.host.as_str(), config.server.port), ("::1", 0));
    assert_eq!((config.workers.count, config.models), (3, vec!["flag".to_owned(), "another".into()]));
    assert_eq!(config.server.drain_timeout, Duration::from_millis(7));
    assert_eq!(load_with(text, &Flags::default()).unwrap().models, ["file"]);
}

#[test]
fn a_model_must_be_named_by_someone() {
    let error = load_with("", &Flags::default()).unwrap_err();
    assert!(error.contains("--model NAME"), "{error}");
    let error = load_with("server:\n  port: 1\nmodel: ''\n", &Flags::default()).unwrap_err();
    assert_eq!(error, "runtime.yaml:3: `model` is empty; name a model or remove the line");
}

#[test]
fn impossible_flags_are_refused() {
    let flags = |workers, models: &[&str]| Flags {
        workers,
        models: models.iter().map(|&model| model.to_owned()).collect(),
        ..Flags::default()
    };
    let refused = |text: &str, flags: Flags| load_with(text, &flags).unwrap_err();
    assert_eq!(refused("", flags(Some(0), &["m"])), "--workers is 0, but must be from 1 to 64");
    assert_eq!(refused("", flags(None, &["m", " "])), "--model is empty");
    assert_eq!(refused("", flags(None, &["m", "n", "m"])), "--model names `m` twice");
    let error = refused("models:\n  max_loaded: 1\n", flags(None, &["m", "n"]));
    assert_eq!(error, "runtime.yaml:2: `models.max_loaded` is 1, but 2 models are to be served");
}

#[test]
fn verification_is_one_of_three() {
    let verify = |text: &str| load(&format!("cache:\n  verify: {text}\n")).map(|c| c.verify);
    assert_eq!(load("").unwrap().verify, Verify::Background);
    assert_eq!(verify("full").unwrap(), Verify::Full);
    assert_eq!(verify("header").unwrap(), Verify::Header);
    let error = verify("sometimes").unwrap_err();
    assert!(error.starts_with("runtime.yaml:2:") && error.contains("background"), "{error}");
}

#[test]
fn what_concerns_workers_becomes_their_options() {
    let options = |text: &str| load(text).map(|config| config.worker_options());
    assert_eq!(options("").unwrap(), WorkerOptions::default());
    let text = "cpu:\n  activations: int8\n  kv_type: float16\ncache:\n  verify: full\n";
    let told = WorkerOptions {
        verify: options::Verify::Full,
        activations: options::Activations::Int8,
        kv_type: options::KvType::Float16,
        ..WorkerOptions::default()
    };
    assert_eq!(options(text).unwrap(), told);
    let error = options("cpu:\n  activations: int4\n").unwrap_err();
    assert!(error.starts_with("runtime.yaml:2:") && error.contains("int16"), "{error}");
}

#[test]
fn an_admin_key_is_read_from_its_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = format!("server:\n  admin_key_file: {}\n", file.path().display());
    std::fs::write(file.path(), "0123456789abcdef\n").unwrap();
    assert!(load(&text).unwrap().server.admin_key.unwrap().is(b"0123456789abcdef"));
    std::fs::write(file.path(), "\n").unwrap();
    let error = load(&text).unwrap_err();
    assert!(error.contains(&file.path().display().to_string()) && error.contains("16"), "{error}");
    assert_eq!(load("").unwrap().server.admin_key, None);
}
