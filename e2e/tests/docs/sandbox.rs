//! A closed world for a document's commands: a home folder, a checkout with the built programs, and stand-ins for what
//! would take hours, a network, or port 8080.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tempfile::TempDir;
use test_support::{
    BIN_DIR,
    process::{is_alive, terminate},
    variable,
};

/// Servers of several documents at once would make each other slow.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// `cargo xtask run` is the real one, over programs that are built already. Of other commands, which build or measure
/// for minutes, only the command line is checked.
const CARGO: &str = r#"#!/usr/bin/env bash
set -euo pipefail
[ "$1" = xtask ] || { echo "a document may only show cargo xtask, not: cargo $*" >&2; exit 1; }
shift
if [ "$1" = run ] && [ "${2-}" != --help ]; then
  exec serve "$BIN_DIR/xtask" "$@" --binaries "$BIN_DIR"
fi
exec "$BIN_DIR/xtask" "$@" --help >/dev/null
"#;

/// Starts a server in the background, on a port that is free, and returns when it is ready.
const SERVE: &str = r#"#!/usr/bin/env bash
set -euo pipefail
out="$SANDBOX/output.$$"
mkfifo "$out"
"$@" --port 0 >"$out" 2>>"$SANDBOX/log" </dev/null &
echo $! >>"$SANDBOX/pids"
exec 3<"$out"
word=
while read -r word base <&3; do [ "$word" != ready ] || break; done
[ "$word" = ready ] || { echo "the server ended before it was ready:" >&2; cat "$SANDBOX/log" >&2; exit 1; }
echo "$base" >"$SANDBOX/base"
cat <&3 >/dev/null 2>&1 &
"#;

/// Sends requests to where the server really listens, and fails if they do.
const CURL: &str = r#"#!/usr/bin/env bash
set -euo pipefail
base=$(cat "$SANDBOX/base")
exec "$SANDBOX/bin/http" --fail-with-body --silent --show-error "${@//http:\/\/127.0.0.1:8080/$base}"
"#;

/// For machines without curl: the part of it that the documents use.
const HTTP: &str = r#"#!/usr/bin/env python3
import sys, urllib.request
method, headers, body, url, words = None, {}, None, None, sys.argv[1:]
while words:
    word = words.pop(0)
    if word in ("--fail-with-body", "--silent", "--show-error", "-N"):
        continue
    elif word == "-X":
        method = words.pop(0)
    elif word == "-H":
        name, value = words.pop(0).split(":", 1)
        headers[name] = value.strip()
    elif word == "-d":
        body = words.pop(0).encode()
    elif word.startswith("-"):
        sys.exit(f"this stand-in for curl does not know {word}")
    else:
        url = word
request = urllib.request.Request(url, body, headers, method=method or ("POST" if body is not None else "GET"))
sys.stdout.write(urllib.request.urlopen(request).read().decode())
"#;

/// Where the commands of one document run. Its servers end when it is dropped.
pub(crate) struct Sandbox {
    folder: TempDir,
    environment: Vec<(String, String)>,
    _turn: MutexGuard<'static, ()>,
}

impl Sandbox {
    /// An empty home and a checkout whose programs are built.
    pub(crate) fn new() -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let sandbox = Self { folder: tempfile::tempdir().unwrap(), environment: Vec::new(), _turn: turn };
        for folder in ["home", "bin", "checkout/target/release", "checkout/config"] {
            fs::create_dir_all(sandbox.folder.path().join(folder)).unwrap();
        }
        let programs = variable(BIN_DIR);
        let release = sandbox.checkout().join("target/release");
        let gateway = format!("#!/bin/sh\nexec serve {}/kr-gateway \"$@\"\n", programs.display());
        sandbox.install(&release.join("kr-gateway"), &gateway);
        for name in ["kr-worker", "cache-tool"] {
            std::os::unix::fs::symlink(programs.join(name), release.join(name)).unwrap();
        }
        let bin = sandbox.folder.path().join("bin");
        std::os::unix::fs::symlink(release.join("cache-tool"), bin.join("cache-tool")).unwrap();
        for (name, script) in [("cargo", CARGO), ("serve", SERVE), ("curl", CURL)] {
            sandbox.install(&bin.join(name), script);
        }
        match on_path("curl") {
            Some(curl) => std::os::unix::fs::symlink(curl, bin.join("http")).unwrap(),
            None => sandbox.install(&bin.join("http"), HTTP),
        }
        fs::copy(root().join("config/runtime.yaml"), sandbox.checkout().join("config/runtime.yaml")).unwrap();
        sandbox
    }

    /// Sets a variable for the commands.
    pub(crate) fn variable(&mut self, name: &str, value: &str) {
        self.environment.push((name.into(), value.into()));
    }

    /// The folder in which commands run.
    pub(crate) fn checkout(&self) -> PathBuf {
        self.folder.path().join("checkout")
    }

    /// `~`.
    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// Runs `script` as a person would paste it, and returns what it printed.
    ///
    /// # Panics
    /// One of its commands fails; `what` says which script it is.
    #[track_caller]
    pub(crate) fn run(&self, what: &str, script: &str) -> String {
        let path = std::env::var("PATH").unwrap();
        let bin = self.folder.path().join("bin");
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", script])
            .current_dir(self.checkout())
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("HOME", self.home())
            .env("SANDBOX", self.folder.path())
            .env("BIN_DIR", variable(BIN_DIR))
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        for name in
            ["KR_CACHE_DIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "HF_HOME", "HF_TOKEN"]
        {
            bash.env_remove(name);
        }
        let output = bash.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{what} fails ({}):\n{script}\n--- stdout\n{printed}\n--- stderr\n{}\n--- server\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            self.log(),
        );
        printed
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn install(&self, path: &Path, script: &str) {
        fs::write(path, script).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let pids = fs::read_to_string(self.folder.path().join("pids")).unwrap_or_default();
        for pid in pids.lines().filter_map(|line| line.parse().ok()).filter(|pid| is_alive(*pid)) {
            terminate(pid);
        }
    }
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
