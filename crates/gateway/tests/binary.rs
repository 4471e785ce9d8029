//! The binary itself: what it refuses before it starts anything.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

fn gateway(args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_kr-gateway")).args(args).current_dir(dir.path()).output().unwrap()
}

fn refusal(args: &[&str]) -> String {
    let output = gateway(args);
    assert!(!output.status.success());
    assert!(output.stdout.is_empty(), "nothing is ready");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_wrong_setting_is_refused_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("my.yaml");
    fs::write(&file, "server:\n  prot: 80\n").unwrap();
    let message = refusal(&["--model", "m", "--config", file.to_str().unwrap()]);
    assert!(
        message.contains("my.yaml:2:") && message.contains("prot") && message.contains("max_body_bytes"),
        "{message}"
    );
}

#[test]
fn a_named_file_must_exist_and_a_model_must_be_named_if_none_is_loaded_on_demand() {
    assert!(refusal(&["--model", "m", "--config", "none.yaml"]).contains("none.yaml"));
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    fs::write(file.path(), "models:\n  on_demand: off\n").unwrap();
    assert!(refusal(&["--config", file.path().to_str().unwrap()]).contains("--model NAME"));
}

#[test]
fn a_busy_port_is_named() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = busy.local_addr().unwrap().port().to_string();
    let message = refusal(&["--model", "m", "--port", &port]);
    assert!(message.contains(&format!("127.0.0.1:{port}")) && message.contains("--port"), "{message}");
}

#[test]
fn a_missing_worker_is_named() {
    let message = refusal(&["--model", "m", "--port", "0", "--worker-bin", "/no/such/worker"]);
    assert!(message.contains("/no/such/worker") && message.contains("--worker-bin"), "{message}");
}

/// An executable script in `dir`.
fn script(dir: &Path, text: &str) -> String {
    let path = dir.join("worker.sh");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_worker_gets_no_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let worker = script(dir.path(), r#"env > "$(dirname "$0")/environment""#);
    let output = Command::new(env!("CARGO_BIN_EXE_kr-gateway"))
        .args(["--model", "m", "--port", "0", "--worker-bin", &worker])
        .current_dir(dir.path())
        .envs([
            ("HF_TOKEN", "secret-1"),
            ("KR_ADMIN_KEY", "secret-2-0123456789"),
            ("AWS_SECRET_ACCESS_KEY", "secret-3"),
            ("DATABASE_URL", "postgres://me:secret-4@localhost"),
            ("KR_CACHE_DIR", "/the/store"),
        ])
        .output()
        .unwrap();
    assert!(!output.status.success(), "the worker ends before it connects");
    let environment = fs::read_to_string(dir.path().join("environment")).unwrap();
    assert!(!environment.contains("secret"), "{environment}");
    for kept in ["PATH=", "KR_CACHE_DIR=/the/store"] {
        assert!(environment.lines().any(|line| line.starts_with(kept)), "{kept}: {environment}");
    }
}

#[test]
fn a_worker_that_exits_at_once_ends_the_gateway_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let worker = script(dir.path(), "exit 1");
    let message = refusal(&["--model", "m", "--port", "0", "--worker-bin", &worker]);
    assert!(
        message.contains("the model `m` could not be loaded: it exited with status 1 before it connected"),
        "{message}"
    );
}
