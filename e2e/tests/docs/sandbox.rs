//! A closed world for a document's commands: a home folder, a checkout with the built programs, and stand-ins for what
//! would take hours, a network, or port 8080.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
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

/// Programs that stand before the real ones on the commands' `PATH`. Each says what it does and does not do.
const STAND_INS: &[(&str, &str)] = &[
    ("cargo", include_str!("stand_ins/cargo")),
    ("curl", include_str!("stand_ins/curl")),
    ("git", include_str!("stand_ins/git")),
    ("python3", include_str!("stand_ins/python3")),
    ("serve", include_str!("stand_ins/serve")),
    ("systemctl", include_str!("stand_ins/systemctl")),
];

/// For machines without curl: the part of it that the documents use.
const HTTP: &str = include_str!("stand_ins/http.py");

/// For machines without OpenAI's Python client: the part of it that the documents use.
const OPENAI: &str = include_str!("stand_ins/openai.py");

/// What the commands find in the checkout, besides the programs.
const CHECKOUT: &[&str] =
    &["config/runtime.yaml", "examples/chat.py", "examples/chat.sh", "examples/kr-serve.service"];

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
        for folder in ["home", "bin", "checkout/target/release", "checkout/config", "checkout/examples"] {
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
        for (name, script) in STAND_INS {
            sandbox.install(&bin.join(name), script);
        }
        let modules = sandbox.folder.path().join("modules");
        fs::create_dir(&modules).unwrap();
        fs::write(modules.join("openai.py"), OPENAI).unwrap();
        match on_path("curl") {
            Some(curl) => std::os::unix::fs::symlink(curl, bin.join("http")).unwrap(),
            None => sandbox.install(&bin.join("http"), HTTP),
        }
        for file in CHECKOUT {
            // With its mode: examples are executable.
            fs::copy(root().join(file), sandbox.checkout().join(file)).unwrap();
        }
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
        let output = self.output(script);
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

    /// Runs `script`, whose last command is refused, and returns what it says on standard error.
    ///
    /// # Panics
    /// It does not fail.
    #[track_caller]
    pub(crate) fn fail(&self, script: &str) -> String {
        let output = self.output(script);
        assert!(!output.status.success(), "this does not fail: {script}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn output(&self, script: &str) -> Output {
        let path = std::env::var("PATH").unwrap();
        let bin = self.folder.path().join("bin");
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", script])
            .current_dir(self.checkout())
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("HOME", self.home())
            .env("SANDBOX", self.folder.path())
            .env("BIN_DIR", variable(BIN_DIR))
            .env("REAL_PATH", &path)
            .env("REPOSITORY", env!("CARGO_PKG_REPOSITORY"))
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        for name in
            ["KR_CACHE_DIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "HF_HOME", "HF_TOKEN"]
        {
            bash.env_remove(name);
        }
        bash.output().unwrap()
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
