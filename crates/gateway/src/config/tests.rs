#![allow(clippy::unwrap_used)]

use std::{path::Path, time::Duration};

use protocol::{
    memory::MemoryShare,
    options::{self, WorkerOptions},
};
use telemetry::LogFormat;

use super::{Config, Digest, Environment, Keys, RateLimits, Verify, Worker};
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
fn mistakes_are_refused_with_file_line_and_key() {
    for (text, expected) in [
        ("\nserver:\n  port: 70000\n", "runtime.yaml:3: `server.port` is 70000, but must be from 0 to 65535"),
        ("workers:\n  count: 0\n", "runtime.yaml:2: `workers.count` is 0, but must be from 1 to 64"),
        ("cache:\n  max_size: 1GB\n", "runtime.yaml:2: `cache.max_size` is not a known key; did you mean"),
        (
            "cache:\n  max_size_bytes: 10 bananas\n",
            "runtime.yaml:2: `cache.max_size_bytes` is `10 bananas`, but must",
        ),
    ] {
        let error = load(text).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn what_a_worker_may_use_is_read() {
    let worker = Worker {
        kv_max_bytes: 4 << 30,
        max_num_seqs: 64,
        max_prompt_chunk_tokens: 256,
        adapter_max_bytes: 256 << 20,
        special_tokens_in_content: false,
    };
    assert_eq!(load("").unwrap().worker, worker);
    let text = "worker: {kv_max_bytes: 1GiB, max_num_seqs: 8, max_prompt_chunk_tokens: 32}\n";
    let worker = Worker {
        kv_max_bytes: 1 << 30,
        max_num_seqs: 8,
        max_prompt_chunk_tokens: 32,
        adapter_max_bytes: 256 << 20,
        special_tokens_in_content: false,
    };
    assert_eq!(load(text).unwrap().worker, worker);
}

#[test]
fn the_limit_of_streams_begins_with_the_places_of_the_workers_within_its_range() {
    let limits = |text: &str| {
        let streams = load(text).unwrap().stream_registry;
        (streams.min_streams, streams.start_streams, streams.max_streams)
    };
    let adaptive = |text: &str| limits(&format!("stream_registry: {{adaptive_limits: {{{text}}}}}\n"));
    assert_eq!(adaptive(""), (5, 50, 50));
    assert_eq!(adaptive("max_streams: 3"), (3, 3, 3), "no other key has to be set with it");
    assert_eq!(adaptive("min_streams: 2, max_streams: 3"), (2, 3, 3));
    assert_eq!(adaptive("max_streams: 500"), (5, 64, 500));
    assert_eq!(limits("workers: {count: 2}\nworker: {max_num_seqs: 8}\n"), (5, 16, 50));
    assert_eq!(limits("worker: {max_num_seqs: 1}\n"), (5, 5, 50));
}

#[test]
fn a_rate_of_zero_is_none() {
    let rates = |text: &str| load(text).unwrap().rate_limits;
    assert_eq!(rates(""), RateLimits::default());
    let set = rates("rate_limits: {requests_per_minute: 60, tokens_per_minute: 0}\n");
    assert_eq!((set.requests_per_minute, set.tokens_per_minute), (Some(60), None));
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
        "model: file\nserver:\n  host: localhost\n  port: 9\n  drain_timeout_ms: 7\nworkers:\n  count: 2\n";
    let config = load_with(text, &flags).unwrap();
    assert_eq!((config.server.host.as_str(), config.server.port), ("::1", 0));
    assert_eq!((config.workers.count, config.models), (3, vec!["flag".to_owned(), "another".into()]));
    assert_eq!(config.server.drain_timeout, Duration::from_millis(7));
    assert_eq!(load_with(text, &Flags::default()).unwrap().models, ["file"]);
}

#[test]
fn a_model_must_be_named_unless_models_are_loaded_on_demand() {
    let none = |text: &str| load_with(text, &Flags::default()).map(|config| config.models);
    for off in ["models:\n  on_demand: off\n", "server:\n  host: 0.0.0.0\n  allow_insecure: true\n"] {
        let error = none(off).unwrap_err();
        assert!(error.contains("--model NAME") && error.contains("on_demand"), "{error}");
    }
    for on in ["", "models:\n  on_demand: on\nserver:\n  host: 0.0.0.0\n  allow_insecure: true\n"] {
        assert_eq!(none(on).unwrap(), [""; 0], "models come when they are asked for");
    }
    let error = load_with("server:\n  port: 1\nmodel: ''\n", &Flags::default()).unwrap_err();
    assert_eq!(error, "runtime.yaml:3: `model` is empty; give it a value or remove the line");
}

#[test]
fn models_are_loaded_on_demand_where_only_this_machine_can_ask() {
    let on = |host: &str, word: &str| {
        let text =
            format!("server: {{host: '{host}', allow_insecure: true}}\nmodels: {{on_demand: {word}}}\n");
        load(&text).unwrap().demand.on
    };
    for (host, loopback) in [
        ("127.0.0.1", true),
        ("127.1.2.3", true),
        ("localhost", true),
        ("::1", true),
        ("0.0.0.0", false),
        ("192.168.0.7", false),
        ("my-mac.local", false),
    ] {
        assert_eq!((on(host, "auto"), on(host, "on"), on(host, "off")), (loopback, true, false), "{host}");
    }
    let host = Some("0.0.0.0".into());
    let flags = Flags { host, models: vec!["m".into()], allow_insecure: true, ..Flags::default() };
    assert!(!load_with("", &flags).unwrap().demand.on, "the flag is what counts");
    let error = load("models:\n  on_demand: maybe\n").unwrap_err();
    assert!(error.starts_with("runtime.yaml:2:") && error.contains("auto"), "{error}");
}

#[test]
fn an_idle_time_of_zero_is_none() {
    let ttl = |text: &str| load(&format!("models:\n  idle_ttl_ms: {text}\n")).map(|it| it.demand.idle_ttl);
    assert_eq!(load("").unwrap().demand.idle_ttl, Some(Duration::from_secs(900)));
    assert_eq!(ttl("0").unwrap(), None);
    assert_eq!(ttl("250").unwrap(), Some(Duration::from_millis(250)));
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
    let error = refused("", flags(None, &["a", "b", "c", "d", "e"]));
    assert_eq!(error, "`models.max_loaded` is 4, but 5 models are to be served");
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
    let text = "cpu:\n  activations: int8\n  kv_type: float16\ncache:\n  verify: full\nworker:\n  \
                kv_max_bytes: 1MiB\n  max_num_seqs: 3\n  max_prompt_chunk_tokens: 5\n  \
                adapter_max_bytes: 1KiB\n  \
                special_tokens_in_content: true\nworkers:\n  heartbeat_timeout_ms: 600\n\
                prefix_cache:\n  enabled: false\n  disk_max_bytes: 3GiB\nspeculation:\n  max_draft_tokens: 6\n";
    let told = WorkerOptions {
        verify: options::Verify::Full,
        activations: options::Activations::Int8,
        kv_type: options::KvType::Float16,
        kv_bytes: 1 << 20,
        keep_prefixes: false,
        prefix_disk_bytes: 3 << 30,
        max_sequences: 3,
        chunk_tokens: 5,
        max_draft_tokens: 6,
        draft_model: None,
        adapter_bytes: 1024,
        special_tokens_in_content: true,
        heartbeat_millis: 100,
        memory: MemoryShare::UNLIMITED,
    };
    assert_eq!(options(text).unwrap(), told);
    let error = options("cpu:\n  activations: int4\n").unwrap_err();
    assert!(error.starts_with("runtime.yaml:2:") && error.contains("int16"), "{error}");
}

/// Names of the keys that are the same as this one.
fn found(keys: &Keys, key: &str) -> Option<String> {
    keys.find(&Digest::of(key.as_bytes())).map(ToString::to_string)
}

#[test]
fn api_keys_are_read_from_their_file_unless_the_environment_has_some() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "# clients\nalice:0123456789abcdef\nbob fedcba9876543210\n").unwrap();
    let text = format!("server:\n  api_keys_file: {}\n", file.path().display());
    let keys = load(&text).unwrap().server.api_keys;
    assert_eq!(found(&keys, "0123456789abcdef"), Some("alice".into()));
    assert_eq!(found(&keys, "fedcba9876543210"), Some("bob".into()));
    assert!(load("").unwrap().server.api_keys.is_empty());

    let flags = Flags { models: vec!["tiny".into()], ..Flags::default() };
    let environment = Environment { api_key: Some("another-0123456789".into()), ..Environment::default() };
    let path = Path::new("runtime.yaml");
    let keys = Config::from_parts(path, &text, &flags, &environment).unwrap().config.server.api_keys;
    assert_eq!(found(&keys, "another-0123456789"), Some("key-1".into()));
    assert_eq!(found(&keys, "0123456789abcdef"), None);

    std::fs::write(file.path(), "# nobody\n").unwrap();
    let error = load(&text).unwrap_err();
    assert!(error.contains(&file.path().display().to_string()) && error.contains("missing"), "{error}");
    let error = load("server:\n  api_keys_file: /no/such/file\n").unwrap_err();
    assert_eq!(error, "cannot read the API keys in /no/such/file");
}

#[test]
fn beyond_loopback_it_takes_keys_tls_or_a_word_to_listen() {
    let host = |host: &str, more: &str| load(&format!("server: {{host: \"{host}\"{more}}}\n"));
    for local in ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST", "[::1]"] {
        assert!(host(local, "").is_ok(), "{local}");
    }
    for open in ["0.0.0.0", "::", "192.168.1.7", "fe80::1", "my-mac", "localhost.example.org"] {
        let error = host(open, "").unwrap_err();
        for part in [
            open,
            "server.api_keys_file",
            "KR_API_KEYS",
            "server.tls",
            "server.allow_insecure",
            "--allow-insecure",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(host(open, ", allow_insecure: true").is_ok());
        let flags = Flags {
            models: vec!["m".into()],
            allow_insecure: true,
            host: Some(open.into()),
            ..Flags::default()
        };
        assert!(load_with("", &flags).is_ok());
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a:0123456789abcdef").unwrap();
    assert!(host("0.0.0.0", &format!(", api_keys_file: {}", file.path().display())).is_ok());
    // An admin key protects the models, not their use.
    let admin = format!(", admin_key_file: {}", file.path().display());
    assert!(host("0.0.0.0", &admin).is_err());
}

#[test]
fn a_filter_that_is_none_is_refused_with_its_line_and_rust_log_overrides_it() {
    let filter = |text: &str| load(text).map(|config| config.telemetry.filter);
    assert_eq!(filter("").unwrap(), "info");
    assert_eq!(filter("telemetry:\n  log_filter: info,gateway=debug\n").unwrap(), "info,gateway=debug");
    let error = filter("telemetry:\n  log_filter: a=b=c\n").unwrap_err();
    let expected = "runtime.yaml:2: `telemetry.log_filter` is `a=b=c`, which is not a filter";
    assert!(error.starts_with(expected), "{error}");
    let with = |log: &str| {
        let flags = Flags { models: vec!["m".into()], ..Flags::default() };
        let environment = Environment { log: Some(log.into()), ..Environment::default() };
        Config::from_parts(Path::new("x"), "telemetry: {log_filter: warn}", &flags, &environment)
            .unwrap()
            .config
            .telemetry
            .filter
    };
    assert_eq!((with("debug").as_str(), with("a=b=c").as_str()), ("debug", "warn"));
}

#[test]
fn an_admin_key_is_read_from_its_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = format!("server:\n  admin_key_file: {}\n", file.path().display());
    std::fs::write(file.path(), "0123456789abcdef\n").unwrap();
    let keys = load(&text).unwrap().server.admin_keys;
    assert_eq!(found(&keys, "0123456789abcdef"), Some("admin".into()));
    std::fs::write(file.path(), "\n").unwrap();
    let error = load(&text).unwrap_err();
    assert!(error.contains(&file.path().display().to_string()) && error.contains("16"), "{error}");
    std::fs::write(file.path(), "ann:0123456789abcdef\nben:fedcba9876543210\n").unwrap();
    assert_eq!(load(&text).unwrap().server.admin_keys.names().collect::<Vec<_>>(), ["ann", "ben"]);
    assert!(load("").unwrap().server.admin_keys.is_empty());

    let error = load("server:\n  admin_key_file: /no/such/file\n").unwrap_err();
    assert_eq!(error, "cannot read the admin key in /no/such/file");
}

#[test]
fn telemetry_is_off_unless_it_is_asked_for() {
    let read = |text: &str| load(text).map(|config| config.telemetry);
    assert_eq!(read("").unwrap(), telemetry::Settings::default());
    let text = "telemetry: {log_format: json, access_log: true, otlp_endpoint: \"http://c:4318\"}\n";
    let traces = telemetry::Traces { endpoint: "http://c:4318".into(), sample_percent: 100 };
    let expected = telemetry::Settings {
        format: LogFormat::Json,
        access_log: true,
        traces: Some(traces.clone()),
        ..telemetry::Settings::default()
    };
    assert_eq!(read(text).unwrap(), expected);
    let none = "telemetry: {otlp_endpoint: \"http://c:4318\", trace_sample_percent: 0}\n";
    assert_eq!(read(none).unwrap().traces.unwrap(), telemetry::Traces { sample_percent: 0, ..traces });
    let flags = Flags { models: vec!["m".into()], log_format: Some(LogFormat::Text), ..Flags::default() };
    assert_eq!(load_with(text, &flags).unwrap().telemetry.format, LogFormat::Text);
    for bad in ["https://c:4318", "c:4318", "http://", "http:///v1", "http://c d"] {
        let error = read(&format!("telemetry:\n  otlp_endpoint: \"{bad}\"\n")).unwrap_err();
        assert!(error.starts_with("runtime.yaml:2: `telemetry.otlp_endpoint` is "), "{error}");
        assert!(error.contains(bad) && error.contains("127.0.0.1:4318"), "{error}");
    }
}
