//! `cache-tool` with models to import.
#![allow(dead_code)]

use serde_json::Value;
use test_support::TestEnv;
use test_support::{gguf::tiny_llama, huggingface::huggingface_folder};

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

/// The binary, an empty store, the GGUF file `tiny.gguf` and the Hugging Face folder `folder`.
pub(crate) fn test_env() -> TestEnv {
    let env = TestEnv::new(env!("CARGO_BIN_EXE_cache-tool"));
    tiny_llama().write(env.path("tiny.gguf").as_ref());
    huggingface_folder(env.path("folder").as_ref());
    env
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}
