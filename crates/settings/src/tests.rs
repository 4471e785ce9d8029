#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, time::Duration};

use proptest::prelude::*;

use crate::{File, Settings, SettingsError, Verify};

fn parse(text: &str) -> Result<Settings, String> {
    File::parse(Path::new("runtime.yaml"), text).map(|file| file.settings).map_err(|error| error.to_string())
}

#[test]
fn the_shipped_file_says_the_defaults_and_leaves_out_only_what_has_none() {
    let shipped = include_str!("../../../config/runtime.yaml");
    assert_eq!(parse(shipped).unwrap(), Settings::default());
    let optional = [
        "# model: ",
        "    # cert_file: ",
        "    # key_file: ",
        "  # api_keys_file: ",
        "  # admin_key_file: ",
        "  # allowed_hosts: ",
        "  # allowed_origins: ",
        "    # min_streams: ",
        "  # draft_models:",
    ];
    for key in optional {
        assert!(shipped.lines().any(|line| line.starts_with(key)), "{key}");
    }
    // Every other field of a section stands there with its default.
    let debug = format!("{:#?}", Settings::default());
    for field in debug.lines().filter_map(|line| line.trim().split_once(": ").map(|(name, _)| name)) {
        assert!(shipped.contains(&format!("{field}:")), "{field} is not in config/runtime.yaml");
    }
}

#[test]
fn what_says_nothing_means_the_defaults() {
    for text in [
        "",
        "\n\n",
        "# nothing\n",
        "---\n",
        "~\n",
        "{}\n",
        "server:\ncpu:\n  # kv_type: float16\ncache: {}\n",
    ] {
        assert_eq!(parse(text), Ok(Settings::default()), "{text:?}");
    }
}

#[test]
fn models_that_draft_have_names() {
    let text = |pairs: &str| format!("speculation:\n  draft_models:{pairs}\n");
    let models = parse(&text("\n    large: small\n    sha256:12: a/b")).unwrap().speculation.draft_models;
    assert_eq!(models["large"], "small");
    assert_eq!(models["sha256:12"], "a/b");
    assert_eq!(parse(&text("")), Ok(Settings::default()));
    let long = format!("\n    large: {}", "x".repeat(257));
    for (wrong, why) in
        [("\n    large: \"\"", "empty"), (&long, "256 bytes"), (" [a]", ""), ("\n    a: [b]", "")]
    {
        let error = parse(&text(wrong)).unwrap_err();
        assert!(error.contains("draft_models") && error.contains(why), "{error}");
    }
}

#[test]
fn a_file_that_is_named_must_exist_and_the_default_one_need_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.yaml");
    let error = File::load(Some(&path)).unwrap_err();
    assert!(matches!(&error, SettingsError::Read { path: at, .. } if *at == path), "{error}");
    assert_eq!(error.to_string(), format!("cannot read the configuration {}", path.display()));
    assert!(std::error::Error::source(&error).is_some());

    fs::write(&path, "server:\n  port: 1\n").unwrap();
    assert_eq!(File::load(Some(&path)).unwrap().settings.server.port, 1);
    fs::write(&path, b"model: \xff\n").unwrap();
    assert!(matches!(File::load(Some(&path)), Err(SettingsError::Read { .. })));
    assert!(matches!(File::load(Some(folder.path())), Err(SettingsError::Read { .. })));
    // This crate's folder has no configuration.
    assert_eq!(File::load(None).unwrap().settings, Settings::default());
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_known_key() {
    for (text, line, key, nearest) in [
        (
            "batch_queue:\n  max_bach_size: 3\n",
            2,
            "batch_queue.max_bach_size",
            Some("batch_queue.max_batch_size"),
        ),
        ("servers:\n  port: 1\n", 1, "servers", Some("server")),
        (
            "server:\n  port: 1\ncache:\n\n  max_size: 1GB\n",
            5,
            "cache.max_size",
            Some("cache.max_size_bytes"),
        ),
        (
            "stream_registry:\n  adaptive_limits: {max_stream: 1}\n",
            2,
            "stream_registry.adaptive_limits.max_stream",
            Some("stream_registry.adaptive_limits.max_streams"),
        ),
        ("cpu: {activation: int8}\n", 1, "cpu.activation", Some("cpu.activations")),
        ("worker:\n  kv_mib: 1\n", 2, "worker.kv_mib", None),
        ("verify: full\n", 1, "verify", None),
        ("workers: {server.port: 1}\n", 1, "workers.server.port", None),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(&format!("runtime.yaml:{line}: `{key}` is not a known key")), "{error}");
        if let Some(nearest) = nearest {
            assert!(error.contains(&format!("did you mean `{nearest}`?")), "{error}");
        }
        assert!(error.contains("(known here: "), "{error}");
    }
    let error = parse("batch_queue:\n  x: 3\n").unwrap_err();
    assert!(
        !error.contains("did you mean") && error.contains("max_batch_size, flush_interval_ms"),
        "{error}"
    );
}

#[test]
fn a_value_out_of_range_is_refused_with_line_and_range() {
    for (text, expected) in [
        ("\nserver:\n  port: 70000\n", "3: `server.port` is 70000, but must be from 0 to 65535"),
        ("workers:\n  count: 0\n", "2: `workers.count` is 0, but must be from 1 to 64"),
        ("workers: {ring_bytes: 70000}\n", "1: `workers.ring_bytes` is 70000, but must be a power of two"),
        (
            "server: {max_body_bytes: 33MiB}\n",
            "1: `server.max_body_bytes` is 33MiB, but must be from 1.0 KiB to 32.0 MiB",
        ),
        (
            "workers:\n  restart_backoff_ms: 9\n  max_restart_backoff_ms: 8\n",
            "3: `workers.max_restart_backoff_ms` is 8, less than `workers.restart_backoff_ms` (9)",
        ),
        (
            "server:\n  max_body_bytes: 2048\n  request_memory_bytes: 12287\n",
            "3: `server.request_memory_bytes` is 12287, but must be at least 6 times `server.max_body_bytes` (12288)",
        ),
        (
            "stream_registry:\n  adaptive_limits:\n    min_streams: 9\n    max_streams: 8\n",
            "4: `stream_registry.adaptive_limits.max_streams` is 8, less than `min_streams` (9)",
        ),
        (
            "batch_queue:\n  flush_interval_ms: 5\n",
            "2: `batch_queue.flush_interval_ms` is 5, but must be from 0 to 4",
        ),
        (
            "worker:\n  kv_max_bytes: 1\n",
            "2: `worker.kv_max_bytes` is 1, but must be from 1.0 MiB to 1.0 PiB",
        ),
        ("worker:\n  max_num_seqs: 0\n", "2: `worker.max_num_seqs` is 0, but must be from 1 to 4096"),
        (
            "worker:\n  max_prompt_chunk_tokens: 0\n",
            "2: `worker.max_prompt_chunk_tokens` is 0, but must be from 1 to 65536",
        ),
        (
            "server:\n  tls:\n    cert_file: c.pem\n",
            "3: `server.tls.cert_file` is set without `server.tls.key_file`; HTTPS needs both",
        ),
        (
            "server:\n  tls: {key_file: k.pem}\n",
            "2: `server.tls.key_file` is set without `server.tls.cert_file`; HTTPS needs both",
        ),
        (
            "server: {max_header_bytes: 4095}\n",
            "1: `server.max_header_bytes` is 4095, but must be from 4.0 KiB to 1.0 MiB",
        ),
        ("server:\n  max_headers: 15\n", "2: `server.max_headers` is 15, but must be from 16 to 10000"),
        ("model: ' '\n", "1: `model` is empty; give it a value or remove the line"),
    ] {
        assert_eq!(parse(text).unwrap_err(), format!("runtime.yaml:{expected}"), "{text}");
    }
    // The line is that of the key which was typed, or none.
    let error = parse("workers:\n  restart_backoff_ms: 20000\n").unwrap_err();
    assert_eq!(
        error,
        "`workers.max_restart_backoff_ms` is 15000, less than `workers.restart_backoff_ms` (20000)"
    );
}

#[test]
fn a_value_of_another_type_is_refused_with_line_and_key() {
    for (text, line, key) in [
        ("server:\n  host: x\n  port: many\n", 3, "server.port"),
        ("server:\n  port: -1\n", 2, "server.port"),
        ("server:\n  port: 1.5\n", 2, "server.port"),
        ("server:\n  port: [1]\n", 2, "server.port"),
        ("server:\n  port:\n", 2, "server.port"),
        ("server:\n  host:\n", 2, "server.host"),
        ("cache:\n  max_size_bytes:\n", 2, "cache.max_size_bytes"),
        ("cache:\n  max_size_bytes: [1]\n", 2, "cache.max_size_bytes"),
        ("cache:\n  max_size_bytes: true\n", 2, "cache.max_size_bytes"),
        ("cache:\n  verify: sometimes\n", 2, "cache.verify"),
        ("server: 7\n", 1, "server"),
        ("server: [7]\n", 1, "server"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(&format!("runtime.yaml:{line}: `{key}` ")), "{text:?}: {error}");
        assert!(!error.contains(" at line "), "{error}");
    }
}

#[test]
fn what_is_not_a_mapping_is_refused_with_its_line() {
    for text in [
        "server:\n  port: [1\nworkers:\n",
        "- a\n",
        "a: b: c\n",
        "text",
        "server:\n\tport: 1\n",
        "model: *y\n",
    ] {
        let Err(error) = parse(text) else { panic!("{text:?} was accepted") };
        let line = error
            .strip_prefix("runtime.yaml:")
            .and_then(|rest| rest.split(':').next())
            .map(str::parse::<u64>);
        assert!(matches!(line, Some(Ok(1..))), "{text:?}: {error}");
    }
    let error = parse("server:\n  port: 1\n---\nserver:\n  port: 2\n").unwrap_err();
    assert!(error.starts_with("runtime.yaml:4:"), "{error}");
    let error = parse("server:\n  port: 1\n  port: 2\n").unwrap_err();
    assert!(error.starts_with("runtime.yaml:3:") && error.contains("`port`"), "{error}");
}

#[test]
fn a_size_means_the_same_with_and_without_quotes() {
    let size =
        |text: &str| parse(&format!("cache:\n  max_size_bytes: {text}\n")).map(|it| it.cache.max_size_bytes);
    for (text, bytes) in
        [("1GB", 1_000_000_000), ("1_024 KiB", 1 << 20), ("1_024", 1024), ("1048576", 1 << 20)]
    {
        assert_eq!(size(text), Ok(bytes), "{text}");
        assert_eq!(size(&format!("'{text}'")), Ok(bytes), "{text}");
    }
    for text in ["0", "-5", "1.5", "1e3", "0x10", "10 bananas", "99999999TiB"] {
        let error = size(text).unwrap_err();
        assert!(error.starts_with("runtime.yaml:2: `cache.max_size_bytes` is "), "{error}");
        assert!(error.contains(text), "{error}");
        assert_eq!(size(&format!("\"{text}\"")).unwrap_err(), error);
    }
    let other = "workers: {ring_bytes: 1 MiB}\nserver: {max_body_bytes: 1MB}\nworker: {kv_max_bytes: 2GiB}\n";
    let other = parse(other).unwrap();
    assert_eq!((other.workers.ring_bytes, other.server.max_body_bytes), (1 << 20, 1_000_000));
    assert_eq!(other.worker.kv_max_bytes, 2 << 30);
}

#[test]
fn the_other_keys_are_read() {
    let text = "model: m\nserver: {drain_timeout_ms: 7}\nworker: {max_num_seqs: 8, max_prompt_chunk_tokens: 512}\n\
                cache: {verify: full}\nstream_registry: {adaptive_limits: {max_streams: 3}}\n";
    let settings = parse(text).unwrap();
    assert_eq!(settings.model.as_deref(), Some("m"));
    assert_eq!(settings.server.drain_timeout_ms, Duration::from_millis(7));
    assert_eq!((settings.worker.max_num_seqs, settings.worker.max_prompt_chunk_tokens), (8, 512));
    assert_eq!(settings.cache.verify, Verify::Full);
    let text = "server:\n  tls: {cert_file: c, key_file: k}\n  max_header_bytes: 8KiB\ntelemetry:\n  log_filter: debug\n";
    let file = File::parse(Path::new("x.yaml"), text).unwrap();
    let (tls, server) = (&file.settings.server.tls, &file.settings.server);
    assert_eq!((tls.cert_file.as_deref(), tls.key_file.as_deref()), (Some("c"), Some("k")));
    assert_eq!((server.max_header_bytes, file.settings.telemetry.log_filter.as_str()), (8192, "debug"));
    assert!(file.sets("telemetry.log_filter") && !file.sets("server.port"));
    assert_eq!(settings.stream_registry.adaptive_limits.max_streams, 3);
}

proptest! {
    /// A line is changed in any way: the file is read or refused, and a refusal says where.
    #[test]
    fn no_text_panics(line in "\\PC{0,30}|[a-z_]{1,12}: ?[0-9a-zA-Z_.\\[{'\"&*!|-]{0,10}", at in 0_usize..120) {
        let shipped = include_str!("../../../config/runtime.yaml");
        let mut lines: Vec<&str> = shipped.lines().collect();
        lines.insert(at.min(lines.len()), &line);
        if let Err(error) = parse(&lines.join("\n")) {
            prop_assert!(error.starts_with("runtime.yaml:") || error.starts_with('`'), "{}", error);
        }
    }

    #[test]
    fn a_number_is_read_exactly_or_refused(port in any::<u64>()) {
        let read = parse(&format!("server: {{port: {port}}}")).map(|it| u64::from(it.server.port));
        prop_assert_eq!(read.ok(), (port <= 65_535).then_some(port));
    }
}
