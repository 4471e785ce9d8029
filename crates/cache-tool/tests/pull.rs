//! `cache-tool pull` from a hub on the loopback interface.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[path = "pull/hostile.rs"]
mod hostile;
mod hub;
#[path = "../../artifact-store/tests/support/mod.rs"]
mod support;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use hub::{Asked, COMMIT, Hub, Repository};
use tempfile::TempDir;

struct World {
    root: TempDir,
    hub: Hub,
}

impl World {
    /// A hub with the two-shard model of the store's tests, and more files than it needs.
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let folder = support::huggingface_folder(&root.path().join("model"));
        let mut repository = Repository::default();
        for name in support::files_below(&folder) {
            repository.files.insert(name.clone(), fs::read(folder.join(name)).unwrap());
        }
        let weights: Vec<f32> = (0..100_000).map(|i| i as f32).collect();
        let large = support::safetensors(&[("b", weights)]);
        repository.files.insert("model-2.safetensors".to_owned(), large);
        for other in ["pytorch_model.bin", "README.md", "other.safetensors", "onnx/model.safetensors"] {
            repository.files.insert(other.to_owned(), b"not needed".to_vec());
        }
        Self { root, hub: Hub::start(repository) }
    }

    /// A hub with a GGUF file in a folder.
    fn gguf() -> Self {
        let root = TempDir::new().unwrap();
        let mut repository = Repository::default();
        repository.files.insert("Q4/tiny.gguf".to_owned(), support::tiny_llama().bytes());
        repository.files.insert("config.json".to_owned(), b"{}".to_vec());
        Self { root, hub: Hub::start(repository) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn run(&self, args: &[&str], token: Option<&str>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cache-tool"));
        command.args(args).env("KR_CACHE_DIR", self.path("store")).env("HF_ENDPOINT", &self.hub.endpoint);
        command.env("HF_HOME", self.path("home")).env_remove("HF_TOKEN").env_remove("HF_TOKEN_PATH");
        command.envs(token.map(|token| ("HF_TOKEN", token)));
        command.output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> Output {
        let output = self.run(args, None);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        output
    }

    /// Exit code and standard error of a command that fails.
    fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args, None);
        (output.status.code().unwrap(), text(&output.stderr))
    }

    fn files(&self) -> Vec<String> {
        support::files_below(&self.path("store"))
    }

    /// Ranges that were asked of a file.
    fn ranges(&self, name: &str) -> Vec<Option<String>> {
        let path = format!("/cdn/{name}");
        self.hub.asked().into_iter().filter(|asked| asked.path == path).map(|asked| asked.range).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_model_is_downloaded_imported_and_named_like_its_repository() {
    let world = World::new();
    let output = world.ok(&["pull", "org/model"]);
    let json = world.ok(&["inspect", "org/model", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(text(&output.stdout).trim_end(), json["digest"]);
    assert_eq!(json["manifest"]["files"].as_array().unwrap().len(), 6);

    let asked = world.hub.asked();
    assert_eq!(asked[0].path, "/api/models/org/model/revision/main?blobs=true");
    let paths: Vec<&str> = asked.iter().filter_map(|asked| asked.path.strip_prefix("/cdn/")).collect();
    assert_eq!(paths.len(), 7, "only what is needed: {paths:?}");
    assert!(!paths.contains(&"other.safetensors") && paths.contains(&"model-2.safetensors"));
    assert!(!world.files().iter().any(|file| file.contains("downloads")), "no second copy stays");
}

#[test]
fn the_same_model_again_brings_only_small_files() {
    let world = World::new();
    world.ok(&["pull", "org/model"]);
    world.hub.asked();
    let again = world.ok(&["pull", "org/model@v1/x", "--name", "again"]);
    assert!(text(&again.stderr).contains("was stored already"), "{}", text(&again.stderr));
    let asked = world.hub.asked();
    assert_eq!(asked[0].path, "/api/models/org/model/revision/v1%2Fx?blobs=true");
    assert!(!asked.iter().any(|asked| asked.path.ends_with(".safetensors")), "{asked:?}");
}

#[test]
fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    let world = World::new();
    world.hub.repository.lock().unwrap().cuts = vec![usize::MAX; 6];
    world.hub.repository.lock().unwrap().cuts.extend([100_000, 0, 5000]);
    world.ok(&["pull", "org/model"]);
    let from = |bytes: usize| Some(format!("bytes={bytes}-"));
    assert_eq!(world.ranges("model-2.safetensors"), [None, from(100_000), from(100_000), from(105_000)]);
    world.ok(&["inspect", "org/model"]);
}

#[test]
fn a_download_that_was_given_up_is_taken_up_by_the_next_command() {
    let world = World::new();
    {
        let mut repository = world.hub.repository.lock().unwrap();
        repository.refuses = true;
        repository.cuts = [&[usize::MAX; 6][..], &[70_000]].concat();
    }
    let (code, said) = world.fails(&["pull", "org/model"]);
    assert!(code == 4 && said.contains("refuses access"), "{said}");
    assert!(!world.files().iter().any(|file| file.starts_with("refs")));
    world.hub.asked();
    world.hub.repository.lock().unwrap().refuses = false;
    world.ok(&["pull", "org/model"]);
    let asked = world.hub.asked();
    let files: Vec<&Asked> = asked.iter().filter(|asked| asked.path.starts_with("/cdn/")).collect();
    assert_eq!(files.len(), 1, "the others were there: {files:?}");
    assert_eq!(files[0].range.as_deref(), Some("bytes=70000-"));
}

#[test]
fn a_server_without_ranges_and_one_that_is_busy_are_borne() {
    let world = World::new();
    {
        let mut repository = world.hub.repository.lock().unwrap();
        (repository.no_ranges, repository.busy) = (true, 1);
        repository.cuts = [&[usize::MAX; 6][..], &[70_000]].concat();
    }
    world.ok(&["pull", "org/model"]);
    world.ok(&["inspect", "org/model"]);
}

#[test]
fn damaged_files_are_refused_and_not_kept() {
    let world = World::gguf();
    world.hub.repository.lock().unwrap().damaged = true;
    let (code, said) = world.fails(&["pull", "org/model", "--file", "Q4/tiny.gguf"]);
    assert_eq!(code, 1);
    assert!(said.contains("damaged on the way"), "{said}");
    assert!(!world.files().iter().any(|file| file.contains("tiny.gguf")));
    world.hub.repository.lock().unwrap().damaged = false;
    world.ok(&["pull", "org/model", "--file", "Q4/tiny.gguf"]);
}

#[test]
fn what_the_store_could_never_hold_is_not_downloaded() {
    let world = World::new();
    let (code, error) = world.fails(&["pull", "org/model", "--max-size", "200kB"]);
    assert_eq!(code, 6, "{error}");
    assert!(error.contains("390.8 KiB are to be added"), "{error}");
    assert!(world.ranges("model-2.safetensors").is_empty(), "{error}");
    world.ok(&["pull", "org/model"]);
}

#[test]
fn a_gguf_file_is_chosen_by_its_name() {
    let world = World::gguf();
    let (code, said) = world.fails(&["pull", "org/model"]);
    assert!(code == 4 && said.contains("name one with --file: Q4/tiny.gguf"), "{said}");
    let (code, said) = world.fails(&["pull", "org/model", "--file", "tiny.gguf"]);
    assert!(code == 4 && said.contains("Q4/tiny.gguf"), "{said}");
    assert!(!world.path("store").exists(), "asking creates nothing");
    world.ok(&["pull", &format!("org/model@{COMMIT}"), "--file", "Q4/tiny.gguf", "--name", "tiny"]);
    let json = world.ok(&["inspect", "tiny", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["manifest"]["source"]["format"], "gguf");
}

#[test]
fn a_token_opens_what_is_gated_and_goes_nowhere_else() {
    let world = World::new();
    world.hub.repository.lock().unwrap().gated = true;
    let (code, said) = world.fails(&["pull", "org/model"]);
    assert!(code == 4 && said.contains("HF_TOKEN"), "{said}");
    let wrong = world.run(&["pull", "org/model"], Some("wrong"));
    assert!(text(&wrong.stderr).contains("does not accept the token"), "{}", text(&wrong.stderr));
    world.hub.asked();

    let right = world.run(&["pull", "org/model"], Some("secret"));
    assert!(right.status.success(), "{}", text(&right.stderr));
    for asked in world.hub.asked() {
        let expected = (!asked.path.starts_with("/cdn/")).then(|| "Bearer secret".to_owned());
        assert_eq!(asked.authorization, expected, "{}", asked.path);
    }
    fs::create_dir(world.path("home")).unwrap();
    fs::write(world.path("home/token"), "secret\n").unwrap();
    world.ok(&["pull", "org/model"]);
}

#[test]
fn what_is_not_there_is_said() {
    let world = World::new();
    let (code, said) = world.fails(&["pull", "org/model@v9"]);
    assert!(code == 4 && said.contains("`org/model` with a revision `v9`"), "{said}");
    assert_eq!(world.fails(&["pull", "org/a/b"]).0, 2);
    assert_eq!(world.fails(&["pull", "org/model", "--name", "../x"]).0, 2);
    world.hub.repository.lock().unwrap().files.remove("model.safetensors.index.json");
    let (code, said) = world.fails(&["pull", "org/model"]);
    assert!(code == 4 && said.contains("3 safetensors files"), "{said}");
    world.hub.repository.lock().unwrap().files.remove("tokenizer.json");
    let (code, said) = world.fails(&["pull", "org/model"]);
    assert!(code == 4 && said.contains("no tokenizer.json"), "{said}");
    world.hub.repository.lock().unwrap().files.retain(|name, _| name == "README.md");
    let (code, said) = world.fails(&["pull", "org/model"]);
    assert!(code == 4 && said.contains("neither safetensors nor GGUF"), "{said}");
}
