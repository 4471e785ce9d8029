//! Every command that the documents show, run: none of them may show one that fails.
//!
//! A document's blocks run one after another, as a reader pastes them. What they need and a reader would have (a model's
//! folder, a key) is made before.

#![allow(clippy::unwrap_used)]

mod commands;
mod links;
mod sandbox;

use std::{collections::BTreeMap, fs, path::Path};

use commands::{blocks, documents, inline};
use sandbox::{Sandbox, root};
use test_support::{
    FakeHub, Repository, STORE, variable, write_tiny_adapter, write_tiny_encoder, write_tiny_model,
};

/// Documents whose blocks a test of this file runs.
const RUN: &[&str] = &[
    "CONTRIBUTING.md",
    "README.md",
    "docs/http.md",
    "docs/operating.md",
    "docs/performance.md",
    "docs/store.md",
    "examples/README.md",
];

/// Documents whose blocks no test runs, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("docs/add-a-model.md", "they record a reference with mlx-lm, of a model that is not there"),
    ("docs/models.md", "they download 220 MB of tokenizers"),
    ("docs/parity.md", "they compare every architecture with mlx-lm"),
];

const GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// Names the default model's GGUF file.
const GGUF_VARIABLE: &str = "KR_TEST_GGUF";

/// Runs the blocks of `document` in order and returns what each printed.
fn run(sandbox: &Sandbox, document: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let blocks = blocks(&text);
    assert!(!blocks.is_empty(), "{document} shows no commands");
    blocks
        .iter()
        .map(|block| sandbox.run(&format!("{document}, line {}", block.line), &block.script))
        .collect()
}

/// A hub whose repositories hold the tiny model, and the default model as the GGUF file `gguf`.
fn start_hub(folder: &Path, gguf: Option<&str>) -> String {
    write_tiny_model(folder);
    let mut files: BTreeMap<String, Vec<u8>> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.extend(gguf.map(|name| (name.to_owned(), fs::read(variable(GGUF_VARIABLE)).unwrap())));
    FakeHub::start(Repository { files, any_name: true, ..Repository::default() }).endpoint
}

#[test]
fn readme() {
    let mut sandbox = Sandbox::new();
    let endpoint = start_hub(&sandbox.home().join("published"), None);
    sandbox.variable("HF_ENDPOINT", &endpoint);
    write_tiny_model(&sandbox.checkout().join("path/to/model"));
    let printed = run(&sandbox, "README.md").concat();
    // Curl and Python's client get the same answer.
    assert_eq!(printed.matches("The capital of France is Paris.").count(), 2, "{printed}");
}

#[test]
fn examples() {
    let sandbox = Sandbox::new();
    let clone = sandbox.home().join(Path::new(env!("CARGO_PKG_REPOSITORY")).file_name().unwrap());
    std::os::unix::fs::symlink(sandbox.checkout(), clone).unwrap();
    let printed = run(&sandbox, "examples/README.md").concat();
    // Curl's answer, Python's, and Python's put together from a stream.
    assert_eq!(printed.matches("The capital of France is Paris.").count(), 3, "{printed}");
    assert!(printed.contains("data: [DONE]"), "{printed}");
    // The service answers as well.
    let answer = sandbox.run("the service", "curl http://127.0.0.1:8080/readyz");
    assert!(answer.contains("\"ready\":true"), "{answer}");
}

#[test]
fn contributing_and_performance() {
    let sandbox = Sandbox::new();
    run(&sandbox, "CONTRIBUTING.md");
    run(&sandbox, "docs/performance.md");
}

#[test]
fn operating() {
    let sandbox = Sandbox::new();
    write_tiny_model(&sandbox.home().join("tiny"));
    let store = variable(STORE);
    let import = "cache-tool import ~/tiny --name my-model\ncache-tool import ~/tiny --name other-model\n";
    sandbox.run("the models", import);
    sandbox.run("another store", "cache-tool --store ~/kr-store import ~/tiny --name my-model");
    let export = format!("cache-tool --store '{}' export smollm2-135m-instruct ~/smollm2", store.display());
    sandbox.run("the default model", &export);
    sandbox.run("the default model", "cache-tool import ~/smollm2 --name smollm2-135m-instruct");
    fs::write(sandbox.checkout().join("runtime.yaml"), "server:\n  admin_key_file: admin-key\n").unwrap();
    // The first command uses the same file; a reader's has no key in it yet.
    sandbox.run("a key", "(umask 077; echo a-key-for-the-first-command > admin-key)");
    run(&sandbox, "docs/operating.md");
}

#[test]
fn http() {
    let mut sandbox = Sandbox::new();
    sandbox.variable("KR_ADMIN_KEY", "an-admin-key-for-the-tests");
    write_tiny_model(&sandbox.home().join("tiny"));
    for name in ["first", "my-model"] {
        sandbox.run("the models", &format!("cache-tool import ~/tiny --name {name}"));
    }
    write_tiny_encoder(&sandbox.home().join("encoder"));
    sandbox.run("a model that embeds text", "cache-tool import ~/encoder --name my-encoder");
    sandbox.run("the server", "target/release/kr-gateway --model first");
    run(&sandbox, "docs/http.md");
}

#[test]
fn store() {
    let mut sandbox = Sandbox::new();
    let endpoint = start_hub(&sandbox.home().join("published"), Some("SmolLM2-135M-Instruct-Q4_K_M.gguf"));
    sandbox.variable("HF_ENDPOINT", &endpoint);
    fs::copy(variable(GGUF_VARIABLE), sandbox.checkout().join(GGUF)).unwrap();
    let models = sandbox.home().join("models");
    write_tiny_model(&models.join("Llama-3.2-1B-Instruct"));
    let quantized = "cache-tool import ~/models/Llama-3.2-1B-Instruct --quantize 4 --name quantized\n\
                     cache-tool export quantized ~/models/Llama-3.2-1B-Instruct-4bit\n\
                     cache-tool import ~/models/Llama-3.2-1B-Instruct --name my-model\n\
                     mkdir -p ~/.local/share/bash-completion/completions\n";
    sandbox.run("the models", quantized);
    write_tiny_adapter(&sandbox.home().join("adapters"), 1);
    run(&sandbox, "docs/store.md");
}

/// What docs/models.md quotes as a refusal is what the programs print, word for word.
#[test]
fn refusals_are_quoted_as_they_are() {
    let sandbox = Sandbox::new();
    let quoted = fs::read_to_string(root().join("docs/models.md")).unwrap();
    let is_quoted = |what: &str, printed: &str| {
        let found = quoted.lines().any(|line| line.len() > MIN_QUOTE && printed.contains(line));
        assert!(found, "docs/models.md does not quote how {what} is refused: {printed}");
    };

    let other = with_architecture(fs::read(variable(GGUF_VARIABLE)).unwrap(), b"rwkv7");
    fs::write(sandbox.home().join("other.gguf"), other).unwrap();
    is_quoted("another architecture in GGUF", &sandbox.fail("cache-tool import ~/other.gguf"));

    let refuse_folder = |setting: &str, value: serde_json::Value, command: &str| {
        let folder = sandbox.home().join("changed");
        write_tiny_model(&folder);
        let path = folder.join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[setting] = value;
        fs::write(path, config.to_string()).unwrap();
        is_quoted(setting, &sandbox.fail(command));
    };
    let import = "cache-tool import ~/changed --name changed";
    let serve = format!("{import}; \"$BIN_DIR/kr-gateway\" --port 0 --model changed");
    refuse_folder("quantization_config", serde_json::json!({ "quant_method": "hqq", "bits": 4 }), import);
    refuse_folder("model_type", "mamba".into(), &serve);
    refuse_folder("hidden_act", "gelu".into(), &serve);
}

/// Lines of prose that a message could contain by chance are shorter.
const MIN_QUOTE: usize = 60;

/// A GGUF file with `name` as its architecture, which has as many letters as `llama`.
fn with_architecture(mut file: Vec<u8>, name: &[u8; 5]) -> Vec<u8> {
    let (key, skipped) = (b"general.architecture", 4 + 8);
    let at = file.windows(key.len()).position(|window| window == key).unwrap() + key.len() + skipped;
    assert_eq!(&file[at..at + name.len()], b"llama");
    file[at..at + name.len()].copy_from_slice(name);
    file
}

/// A command within a sentence is at least one that its program understands.
#[test]
fn commands_within_sentences_are_understood() {
    let sandbox = Sandbox::new();
    for document in documents(&root()) {
        let text = fs::read_to_string(root().join(&document)).unwrap();
        for command in inline(&text, &["cargo xtask", "cache-tool"]) {
            sandbox.run(&document.display().to_string(), &format!("{command} --help"));
        }
    }
}

#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    for document in documents(&root()) {
        let path = root().join(&document);
        let text = fs::read_to_string(&path).unwrap();
        for link in links::links(&text) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let has_anchor = || {
                let target = fs::read_to_string(&target).unwrap();
                links::anchors(&target).iter().any(|heading| heading == anchor)
            };
            if !target.exists() || !(anchor.is_empty() || has_anchor()) {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "these links lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn no_document_with_commands_is_left_out() {
    let with_commands: Vec<_> = documents(&root())
        .into_iter()
        .filter(|path| !blocks(&fs::read_to_string(root().join(path)).unwrap()).is_empty())
        .collect();
    let mut known: Vec<_> = RUN.iter().chain(NOT_RUN.iter().map(|(path, _)| path)).map(Path::new).collect();
    known.sort_unstable();
    assert_eq!(with_commands, known);
}
