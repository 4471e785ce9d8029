//! A program in a folder of its own.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

/// Runs one program with its own store, caches and token, away from those of whoever runs the tests. Its folder is
/// removed when it is dropped.
pub struct TestEnv {
    root: TempDir,
    binary: PathBuf,
    variables: Vec<(&'static str, OsString)>,
}

/// Variables that would let the program see the user's files or secrets, or change its defaults.
const REMOVED: [&str; 5] = ["KR_CACHE_MAX_SIZE", "HF_ENDPOINT", "HF_HOME", "HF_TOKEN", "HF_TOKEN_PATH"];

impl TestEnv {
    /// An empty folder for `binary`, whose store will be `store` in it.
    ///
    /// # Panics
    /// The folder can't be created.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        let root = TempDir::new().unwrap();
        let variables = vec![
            ("KR_CACHE_DIR", root.path().join("store").into_os_string()),
            ("HF_HOME", root.path().join("home").into_os_string()),
        ];
        Self { root, binary: binary.into(), variables }
    }

    /// The same with another environment variable.
    #[must_use]
    pub fn with_variable(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// The path of `name` in its folder, as an argument.
    ///
    /// # Panics
    /// The folder for temporary files has a name that is not UTF-8.
    pub fn path(&self, name: &str) -> String {
        self.root.path().join(name).to_str().unwrap().to_owned()
    }

    /// The program with these arguments, not yet started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args).current_dir(self.root.path());
        for name in REMOVED {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// It can't be started.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Standard output of a command that succeeds.
    ///
    /// # Panics
    /// It fails.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Standard output of a command that succeeds, as JSON.
    ///
    /// # Panics
    /// It fails, or prints something else.
    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    /// Exit code and standard error of a command that fails and prints no data.
    ///
    /// # Panics
    /// It prints data, or dies of a signal.
    pub fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        assert!(output.stdout.is_empty(), "{args:?}: {}", text(&output.stdout));
        assert!(!output.status.success(), "{args:?} succeeds");
        (output.status.code().unwrap(), text(&output.stderr))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
