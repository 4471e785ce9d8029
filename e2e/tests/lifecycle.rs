//! Starting and stopping.

#![allow(clippy::unwrap_used)]

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, process::Output};

use serde_json::{Value, json};
use test_support::{
    MODEL, Options, Server, chat,
    process::{is_alive, kill, terminate},
};

/// Runs a gateway that is expected to end by itself.
fn refused(options: &Options) -> String {
    let Output { status, stdout, stderr } = options.command().output().unwrap();
    let log = String::from_utf8(stderr).unwrap();
    assert!(!status.success(), "{log}");
    assert_eq!(String::from_utf8(stdout).unwrap(), "", "no readiness line:\n{log}");
    log
}

#[test]
fn a_busy_port_is_an_error() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let log = refused(&Options { port, ..Options::default() });
    assert!(log.contains(&port.to_string()) && log.contains("in use"), "{log}");
}

#[test]
fn a_bad_configuration_is_an_error_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("runtime.yaml");
    fs::write(&file, "batch_queue:\n  max_batch_size: 8\n  max_bach: 9\n").unwrap();
    let arguments = vec!["--config".to_string(), file.to_str().unwrap().to_string()];
    let log = refused(&Options { arguments, ..Options::default() });
    assert!(log.contains("max_bach") && log.contains('3'), "{log}");
}

#[test]
fn an_unknown_model_is_an_error() {
    let log = refused(&Options { model: "no-such-model".into(), ..Options::default() });
    assert!(log.contains("no-such-model") && log.contains(MODEL) && log.contains("cache-tool"), "{log}");
}

const KEY: &str = "an-admin-key-for-the-tests";

#[test]
fn a_stop_signal_finishes_what_runs() {
    stopping_finishes_what_runs(|server| terminate(server.pid()));
}

#[test]
fn an_order_to_drain_finishes_what_runs() {
    stopping_finishes_what_runs(|server| {
        let answer = server.client.with_key(KEY).post("/admin/drain", &json!({}));
        assert_eq!((answer.status, answer.json), (202, json!({"state": "draining", "streams": 1})));
    });
}

fn stopping_finishes_what_runs(stop: impl FnOnce(&Server)) {
    let environment = vec![("KR_ADMIN_KEY", KEY.to_string())];
    let mut server = Server::start_with(&Options { environment, ..Options::default() });
    let workers = server.workers();
    let mut request = chat("Count from one to twenty in words.", 24);
    request["stream"] = true.into();
    let mut stream = server.client.stream("/v1/chat/completions", &request);
    assert!(stream.next_data().is_some());
    stop(&server);
    let rest = stream.rest();
    assert_eq!(rest.last().unwrap(), "[DONE]");
    let finish: Value = serde_json::from_str(&rest[rest.len() - 2]).unwrap();
    assert!(finish["choices"][0]["finish_reason"].is_string(), "{finish}");
    assert!(server.wait().success(), "{}", server.log());
    assert!(!workers.iter().any(|&pid| is_alive(pid)), "{}", server.log());
    let log = server.log();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "an orderly end is no reason to warn:\n{log}");
}

#[test]
fn what_a_killed_gateway_leaves_is_swept_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    // As the system makes it: others have no access, or it would not be used.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let environment = vec![("XDG_RUNTIME_DIR", folder.path().to_str().unwrap().to_string())];
    let options = Options { environment, ..Options::default() };
    let folders = || -> Vec<_> {
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    let mut server = Server::start_with(&options);
    let left = folders();
    assert_eq!(left.len(), 1, "{left:?}");
    kill(server.pid());
    server.wait();
    assert_eq!(folders(), left, "nobody was there to remove it");
    drop(server);

    let mut server = Server::start_with(&options);
    let own = folders();
    assert!(own.len() == 1 && own != left, "{left:?}, then {own:?}");
    terminate(server.pid());
    assert!(server.wait().success());
    assert!(folders().is_empty(), "{:?}", folders());
}
