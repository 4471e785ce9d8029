#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, path::Path};

use super::*;
use crate::{cli::Flags, config::Environment};

fn config_with(text: &str, environment: &Environment) -> Config {
    let flags = Flags { models: vec!["m".into()], ..Flags::default() };
    Config::from_parts(Path::new("test.yaml"), text, &flags, environment).unwrap().config
}

fn config(text: &str) -> Config {
    config_with(text, &Environment::default())
}

fn keyed(host: &str, key: &str) -> Config {
    let environment = Environment { api_keys: Some(key.into()), ..Environment::default() };
    config_with(&format!("server: {{host: {host}}}"), &environment)
}

/// Keys of the file that are not the gateway's.
const OTHERS: [&str; 1] = ["cache.max_size_bytes"];

/// All keys of the shipped file, also those that are commented out.
fn keys_of_the_file() -> BTreeSet<String> {
    let mut parents: Vec<(usize, String)> = Vec::new();
    let mut keys = BTreeSet::new();
    for line in include_str!("../../../../../config/runtime.yaml").lines() {
        let bare = line.replacen("# ", "", 1);
        let indent = bare.len() - bare.trim_start().len();
        let Some((name, value)) = bare.trim_start().split_once(':') else { continue };
        if !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
            continue;
        }
        let is_comment = line.trim_start().starts_with('#');
        if is_comment && !value.starts_with(' ') {
            continue;
        }
        parents.retain(|(at, _)| *at < indent);
        let prefix: String = parents.iter().map(|(_, name)| format!("{name}.")).collect();
        if value.trim().is_empty() {
            parents.push((indent, name.to_owned()));
        } else {
            keys.insert(format!("{prefix}{name}"));
        }
    }
    keys
}

#[test]
fn every_key_of_the_file_says_whether_it_can_change() {
    let mut known: BTreeSet<String> = rows().map(|row| row.key.to_owned()).collect();
    assert_eq!(known.len(), rows().count(), "no key twice");
    // The two files of TLS are one thing.
    assert!(known.remove("server.tls") && known.insert("server.tls.key_file".into()));
    known.extend(OTHERS.map(str::to_owned));
    assert_eq!(keys_of_the_file(), known, "add the key to the table in config/live.rs");
}

#[test]
fn nothing_differs_from_itself() {
    for text in ["", "server: {port: 1, max_headers: 50}\nlog: {filter: debug}\n"] {
        assert_eq!(diff(&config(text), &config(text)), Changes::default());
        assert_eq!(adopt(&config(text), &config(text)).unwrap(), config(text));
    }
}

#[test]
fn what_can_change_is_taken_over_and_the_rest_is_named() {
    let old = config("");
    let new = config(
        "server: {port: 1, max_body_bytes: 2048, allowed_hosts: [a.example], idle_timeout_ms: 100}\n\
         models: {max_loaded: 9}\nworkers: {count: 2, max_restart_backoff_ms: 16000}\n\
         stream_registry: {max_waiting: 1, credit_chunks: 5}\ncpu: {kv_type: float16}\nlog: {filter: debug}\n",
    );
    let changes = diff(&old, &new);
    let keys = |changes: &[Change]| changes.iter().map(|it| it.key).collect::<BTreeSet<_>>();
    let live = [
        "log.filter",
        "models.max_loaded",
        "server.allowed_hosts",
        "server.idle_timeout_ms",
        "server.max_body_bytes",
        "stream_registry.max_waiting",
    ];
    assert_eq!(keys(&changes.live), live.into());
    let restart = [
        "cpu.kv_type",
        "server.port",
        "stream_registry.credit_chunks",
        "workers.count",
        "workers.max_restart_backoff_ms",
    ];
    assert_eq!(keys(&changes.after_restart), restart.into());
    let port = Change { key: "server.port", from: "8080".into(), to: "1".into() };
    assert!(changes.after_restart.contains(&port));

    let adopted = adopt(&old, &new).unwrap();
    assert_eq!((adopted.server.port, adopted.workers.count), (8080, 1));
    assert_eq!((adopted.server.max_body_bytes, adopted.max_loaded), (2048, 9));
    let left = diff(&adopted, &new);
    assert_eq!((left.live, left.after_restart), (vec![], changes.after_restart));
}

#[test]
fn keys_are_shown_by_their_names() {
    let (old, new) = (keyed("127.0.0.1", "a:0123456789abcdef"), keyed("127.0.0.1", "a:0123456789abcdeg"));
    let changes = diff(&old, &new);
    let change = Change { key: "server.api_keys_file", from: "[a]".into(), to: "[a]".into() };
    assert_eq!(changes.live, [change]);
    let shown: Vec<_> = values(&old).map(|(key, value, _)| format!("{key}: {value}")).collect();
    assert!(shown.contains(&"server.api_keys_file: [a]".to_owned()), "{shown:?}");
    assert!(!shown.iter().any(|line| line.contains("0123456789")), "{shown:?}");
}

#[test]
fn what_protects_an_address_can_not_be_taken_away_while_it_is_listened_on() {
    let (open, closed) = (keyed("0.0.0.0", "a:0123456789abcdef"), config("server: {host: 127.0.0.1}"));
    assert!(matches!(adopt(&open, &closed), Err(ConfigError::Exposed { host }) if host == "0.0.0.0"));
    assert!(adopt(&open, &keyed("0.0.0.0", "b:0123456789abcdeg")).is_ok());
    let allowed = config("server: {host: 127.0.0.1, allow_insecure: true}");
    assert!(adopt(&open, &allowed).unwrap().server.api_keys.is_empty());
}
