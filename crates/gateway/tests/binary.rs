//! The binary itself: what it refuses before it starts anything.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{BufRead, BufReader, Lines},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, ChildStderr, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

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
fn a_named_file_must_exist_and_a_model_must_be_named() {
    assert!(refusal(&["--model", "m", "--config", "none.yaml"]).contains("none.yaml"));
    assert!(refusal(&[]).contains("--model NAME"));
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
            ("KR_API_KEYS", "me:secret-5-0123456789"),
            ("KR_API_KEY", "secret-6-0123456789"),
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

#[test]
fn to_listen_for_other_machines_takes_keys_tls_or_a_word() {
    let message = refusal(&["--model", "m", "--host", "0.0.0.0"]);
    for way in ["server.api_keys_file", "server.tls", "--allow-insecure"] {
        assert!(message.contains(way), "{way}: {message}");
    }
    // The next thing that it misses is the worker.
    let wanted = ["--model", "m", "--host", "0.0.0.0", "--port", "0", "--allow-insecure"];
    let message = refusal(&[wanted.as_slice(), &["--worker-bin", "/no/such/worker"]].concat());
    assert!(message.contains("/no/such/worker") && message.contains("neither API keys nor TLS"), "{message}");
}

fn check_config(args: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_kr-gateway"))
        .arg("check-config")
        .args(args)
        .current_dir(dir.path())
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_configuration_can_be_checked_without_being_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("my.yaml");
    let file = path.to_str().unwrap();
    fs::write(&path, "server:\n  port: 81\n").unwrap();
    let (code, out, err) =
        check_config(&["--config", file, "--host", "::1"], &[("KR_API_KEYS", "ann:0123456789abcdef")]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    for line in ["  server.host: ::1", "  server.port: 81", "* server.api_keys_file: [ann]"] {
        assert!(out.lines().any(|it| it == line), "{line}: {out}");
    }
    assert!(out.contains("warning: no model is named") && !out.contains("0123456789"), "{out}");

    for (text, place) in [
        ("server:\n  prot: 81\n", "my.yaml:2: `server.prot`"),
        ("server:\n  api_keys_file: /no/keys\n", "/no/keys"),
        ("server:\n  host: 0.0.0.0\n", "server.api_keys_file"),
        ("log:\n  filter: a=b=c\n", "my.yaml:2: `log.filter`"),
    ] {
        fs::write(&path, text).unwrap();
        let (code, out, err) = check_config(&["--config", file], &[]);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        assert!(err.starts_with("error: ") && err.contains(place), "{err}");
    }
    let (code, _, err) = check_config(&["--config", "none.yaml"], &[]);
    assert!(code == Some(1) && err.contains("none.yaml"), "{err}");
}

/// A gateway whose worker never connects; killed when dropped.
struct Running {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Running {
    fn start(dir: &Path, args: &[&str]) -> Self {
        let worker = script(dir, "exec sleep 1000");
        let mut child = Command::new(env!("CARGO_BIN_EXE_kr-gateway"))
            .args(["--model", "m", "--port", "0", "--worker-bin", &worker])
            .args(args)
            .current_dir(dir)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, log }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The next line of the log that has `part` in it.
    fn line(&mut self, part: &str) -> String {
        let mut seen = Vec::new();
        for line in self.log.by_ref() {
            let line = line.unwrap();
            if line.contains(part) {
                return line;
            }
            seen.push(line);
        }
        panic!("the log has no {part}: {seen:#?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn sighup_applies_what_can_change_and_names_what_can_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("my.yaml");
    fs::write(&file, "server:\n  max_body_bytes: 2048\n").unwrap();
    let mut gateway = Running::start(dir.path(), &["--config", file.to_str().unwrap()]);
    gateway.line("loading");

    fs::write(&file, "server:\n  max_body_bytes: 4096\n  prot: 1\n").unwrap();
    gateway.signal(Signal::HUP);
    let line = gateway.line("nothing was changed");
    assert!(line.contains("ERROR") && line.contains("my.yaml:3: `server.prot`"), "{line}");

    fs::write(&file, "server:\n  max_body_bytes: 4096\n  host: localhost\nlog:\n  filter: warn\n").unwrap();
    gateway.signal(Signal::HUP);
    let line = gateway.line("takes effect after a restart");
    assert!(line.contains("server.host changed from 127.0.0.1 to localhost"), "{line}");

    fs::write(&file, "server:\n  max_body_bytes: 5000\nlog:\n  filter: info\n").unwrap();
    gateway.signal(Signal::HUP);
    let line = gateway.line("the configuration was read again");
    assert!(line.contains("server.max_body_bytes = 5000") && line.contains("log.filter = info"), "{line}");

    gateway.signal(Signal::TERM);
    gateway.line("shutting down");
    assert!(gateway.child.wait().unwrap().success());
}
