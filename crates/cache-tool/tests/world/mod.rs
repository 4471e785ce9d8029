//! The real binary in a closed world.
#![allow(dead_code)]

use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::support;

pub(crate) const COMMANDS: [&str; 13] = [
    "pull",
    "import",
    "list",
    "inspect",
    "usage",
    "pin",
    "unpin",
    "remove",
    "prune",
    "verify",
    "repair",
    "export",
    "completions",
];

/// A closed world: a folder with a store, a GGUF file and a Hugging Face folder.
pub(crate) struct World {
    pub(crate) root: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let root = TempDir::new().unwrap();
        support::tiny_llama().write(&root.path().join("tiny.gguf"));
        support::huggingface_folder(&root.path().join("folder"));
        Self { root }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.root.path().join(name).to_str().unwrap().to_owned()
    }

    #[must_use]
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cache-tool"))
            .args(args)
            .env("KR_CACHE_DIR", self.root.path().join("store"))
            .env_remove("KR_CACHE_MAX_SIZE")
            .output()
            .unwrap()
    }

    /// Standard output of a command that succeeds.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    /// Exit code and standard error of a command that fails and prints no data.
    pub(crate) fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        assert!(output.stdout.is_empty(), "{args:?}: {}", text(&output.stdout));
        (output.status.code().unwrap(), text(&output.stderr))
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}
