//! `cache-tool pull` from a hub on the loopback interface.
#![allow(clippy::unwrap_used)]

#[path = "pull/hostile.rs"]
mod hostile;

use std::{fs, path::PathBuf, process::Output};

use test_support::{
    COMMIT, FakeHub, HubRequest, Repository, TestEnv, files::files_below, gguf::tiny_llama,
    huggingface::huggingface_folder, safetensors::safetensors,
};

/// The binary, and a hub to pull from.
struct HubEnv {
    env: TestEnv,
    hub: FakeHub,
}

impl HubEnv {
    /// A hub with a model of two shards, and more files than it needs.
    fn new() -> Self {
        let env = TestEnv::new(env!("CARGO_BIN_EXE_cache-tool"));
        let folder = huggingface_folder(env.path("model").as_ref());
        let mut repository = Repository::default();
        for name in files_below(&folder) {
            repository.files.insert(name.clone(), fs::read(folder.join(name)).unwrap());
        }
        let weights: Vec<f32> = (0..100_000).map(|i| i as f32).collect();
        let large = safetensors(&[("b", weights)]);
        repository.files.insert("model-2.safetensors".to_owned(), large);
        for other in ["pytorch_model.bin", "README.md", "other.safetensors", "onnx/model.safetensors"] {
            repository.files.insert(other.to_owned(), b"not needed".to_vec());
        }
        Self::with_hub(env, repository)
    }

    /// A hub with a GGUF file in a folder.
    fn gguf() -> Self {
        let mut repository = Repository::default();
        repository.files.insert("Q4/tiny.gguf".to_owned(), tiny_llama().bytes());
        repository.files.insert("config.json".to_owned(), b"{}".to_vec());
        Self::with_hub(TestEnv::new(env!("CARGO_BIN_EXE_cache-tool")), repository)
    }

    /// The same folder and store, with a new hub.
    fn with_hub(env: TestEnv, repository: Repository) -> Self {
        let hub = FakeHub::start(repository);
        Self { env: env.with_variable("HF_ENDPOINT", &hub.endpoint), hub }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.env.path(name).into()
    }

    fn run(&self, args: &[&str], token: Option<&str>) -> Output {
        let mut command = self.env.command(args);
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
        self.env.fails(args)
    }

    fn files(&self) -> Vec<String> {
        files_below(&self.path("store"))
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
    let env = HubEnv::new();
    let output = env.ok(&["pull", "org/model"]);
    let json = env.ok(&["inspect", "org/model", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(text(&output.stdout).trim_end(), json["digest"]);
    assert_eq!(json["manifest"]["files"].as_array().unwrap().len(), 6);

    let asked = env.hub.asked();
    assert_eq!(asked[0].path, "/api/models/org/model/revision/main?blobs=true");
    let paths: Vec<&str> = asked.iter().filter_map(|asked| asked.path.strip_prefix("/cdn/")).collect();
    assert_eq!(paths.len(), 7, "only what is needed: {paths:?}");
    assert!(!paths.contains(&"other.safetensors") && paths.contains(&"model-2.safetensors"));
    assert!(!env.files().iter().any(|file| file.contains("downloads")), "no second copy stays");
}

#[test]
fn the_same_model_again_brings_only_small_files() {
    let env = HubEnv::new();
    env.ok(&["pull", "org/model"]);
    env.hub.asked();
    let again = env.ok(&["pull", "org/model@v1/x", "--name", "again"]);
    assert!(text(&again.stderr).contains("was stored already"), "{}", text(&again.stderr));
    let asked = env.hub.asked();
    assert_eq!(asked[0].path, "/api/models/org/model/revision/v1%2Fx?blobs=true");
    assert!(!asked.iter().any(|asked| asked.path.ends_with(".safetensors")), "{asked:?}");
}

#[test]
fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    let env = HubEnv::new();
    env.hub.repository.lock().unwrap().cuts = vec![usize::MAX; 6];
    env.hub.repository.lock().unwrap().cuts.extend([100_000, 0, 5000]);
    env.ok(&["pull", "org/model"]);
    let from = |bytes: usize| Some(format!("bytes={bytes}-"));
    assert_eq!(env.ranges("model-2.safetensors"), [None, from(100_000), from(100_000), from(105_000)]);
    env.ok(&["inspect", "org/model"]);
}

#[test]
fn a_download_that_was_given_up_is_taken_up_by_the_next_command() {
    let env = HubEnv::new();
    {
        let mut repository = env.hub.repository.lock().unwrap();
        repository.refuses = true;
        repository.cuts = [&[usize::MAX; 6][..], &[70_000]].concat();
    }
    let (code, said) = env.fails(&["pull", "org/model"]);
    assert!(code == 4 && said.contains("refuses access"), "{said}");
    assert!(!env.files().iter().any(|file| file.starts_with("refs")));
    env.hub.asked();
    env.hub.repository.lock().unwrap().refuses = false;
    env.ok(&["pull", "org/model"]);
    let asked = env.hub.asked();
    let files: Vec<&HubRequest> = asked.iter().filter(|asked| asked.path.starts_with("/cdn/")).collect();
    assert_eq!(files.len(), 1, "the others were there: {files:?}");
    assert_eq!(files[0].range.as_deref(), Some("bytes=70000-"));
}

#[test]
fn a_server_without_ranges_and_one_that_is_busy_are_borne() {
    let env = HubEnv::new();
    {
        let mut repository = env.hub.repository.lock().unwrap();
        (repository.no_ranges, repository.busy) = (true, 1);
        repository.cuts = [&[usize::MAX; 6][..], &[70_000]].concat();
    }
    env.ok(&["pull", "org/model"]);
    env.ok(&["inspect", "org/model"]);
}

#[test]
fn damaged_files_are_refused_and_not_kept() {
    let env = HubEnv::gguf();
    env.hub.repository.lock().unwrap().damaged = true;
    let (code, said) = env.fails(&["pull", "org/model", "--file", "Q4/tiny.gguf"]);
    assert_eq!(code, 1);
    assert!(said.contains("damaged on the way"), "{said}");
    assert!(!env.files().iter().any(|file| file.contains("tiny.gguf")));
    env.hub.repository.lock().unwrap().damaged = false;
    env.ok(&["pull", "org/model", "--file", "Q4/tiny.gguf"]);
}

#[test]
fn what_the_store_could_never_hold_is_not_downloaded() {
    let env = HubEnv::new();
    let (code, error) = env.fails(&["pull", "org/model", "--max-size", "200kB"]);
    assert_eq!(code, 6, "{error}");
    assert!(error.contains("390.8 KiB are to be added"), "{error}");
    assert!(env.ranges("model-2.safetensors").is_empty(), "{error}");
    env.ok(&["pull", "org/model"]);
}

#[test]
fn what_could_not_be_served_is_not_downloaded() {
    let env = HubEnv::new();
    let config = br#"{"model_type": "llama", "quantization_config": {"quant_method": "hqq", "bits": 4}}"#;
    env.hub.repository.lock().unwrap().files.insert("config.json".to_owned(), config.to_vec());
    let (code, error) = env.fails(&["pull", "org/model"]);
    assert_eq!(code, 4, "{error}");
    assert!(error.contains("HQQ") && error.contains("--quantize"), "{error}");
    assert!(!env.hub.asked().iter().any(|asked| asked.path.ends_with(".safetensors")));
}

#[test]
fn a_gguf_file_is_chosen_by_its_name() {
    let env = HubEnv::gguf();
    let (code, said) = env.fails(&["pull", "org/model"]);
    assert!(code == 4 && said.contains("name one with --file: Q4/tiny.gguf"), "{said}");
    let (code, said) = env.fails(&["pull", "org/model", "--file", "tiny.gguf"]);
    assert!(code == 4 && said.contains("Q4/tiny.gguf"), "{said}");
    assert!(!env.path("store").exists(), "asking creates nothing");
    env.ok(&["pull", &format!("org/model@{COMMIT}"), "--file", "Q4/tiny.gguf", "--name", "tiny"]);
    let json = env.ok(&["inspect", "tiny", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["manifest"]["source"]["format"], "gguf");
}

#[test]
fn a_token_opens_what_is_gated_and_goes_nowhere_else() {
    let env = HubEnv::new();
    env.hub.repository.lock().unwrap().gated = true;
    let (code, said) = env.fails(&["pull", "org/model"]);
    assert!(code == 4 && said.contains("HF_TOKEN"), "{said}");
    let wrong = env.run(&["pull", "org/model"], Some("wrong"));
    assert!(text(&wrong.stderr).contains("does not accept the token"), "{}", text(&wrong.stderr));
    env.hub.asked();

    let right = env.run(&["pull", "org/model"], Some("secret"));
    assert!(right.status.success(), "{}", text(&right.stderr));
    for asked in env.hub.asked() {
        let expected = (!asked.path.starts_with("/cdn/")).then(|| "Bearer secret".to_owned());
        assert_eq!(asked.authorization, expected, "{}", asked.path);
    }
    fs::create_dir(env.path("home")).unwrap();
    fs::write(env.path("home/token"), "secret\n").unwrap();
    env.ok(&["pull", "org/model"]);
}

#[test]
fn what_is_not_there_is_said() {
    let env = HubEnv::new();
    let (code, said) = env.fails(&["pull", "org/model@v9"]);
    assert!(code == 4 && said.contains("`org/model` with a revision `v9`"), "{said}");
    assert_eq!(env.fails(&["pull", "org/a/b"]).0, 2);
    assert_eq!(env.fails(&["pull", "org/model", "--name", "../x"]).0, 2);
    env.hub.repository.lock().unwrap().files.remove("model.safetensors.index.json");
    let (code, said) = env.fails(&["pull", "org/model"]);
    assert!(code == 4 && said.contains("3 safetensors files"), "{said}");
    env.hub.repository.lock().unwrap().files.remove("tokenizer.json");
    let (code, said) = env.fails(&["pull", "org/model"]);
    assert!(code == 4 && said.contains("no tokenizer.json"), "{said}");
    env.hub.repository.lock().unwrap().files.retain(|name, _| name == "README.md");
    let (code, said) = env.fails(&["pull", "org/model"]);
    assert!(code == 4 && said.contains("neither safetensors nor GGUF"), "{said}");
}

#[test]
fn an_index_that_is_left_over_does_not_hide_the_whole_model() {
    let missing = r#"{ "weight_map": { "w": "gone.safetensors" } }"#;
    for index in [missing, "{", "[]", r#"{ "weight_map": { "w": 7 } }"#] {
        let env = HubEnv::new();
        let put = |name: &str, bytes: &[u8]| {
            env.hub.repository.lock().unwrap().files.insert(name.to_owned(), bytes.to_owned());
        };
        put("model.safetensors.index.json", index.as_bytes());
        let (code, said) = env.fails(&["pull", "org/model"]);
        assert!(code == 4 && said.contains("model.safetensors.index.json"), "{index}: {said}");
        put("model.safetensors", &safetensors(&[("w", vec![1.0; 8])]));
        let pulled = env.ok(&["pull", "org/model"]);
        assert!(text(&pulled.stderr).contains("warning: "), "{index}: {}", text(&pulled.stderr));
    }
}

#[test]
fn what_makes_an_embedding_comes_along() {
    let env = HubEnv::new();
    let module = |kind: &str, path: &str| {
        format!(r#"{{"type": "sentence_transformers.models.{kind}", "path": "{path}"}}"#)
    };
    let [transformer, pooling] = [module("Transformer", ""), module("Pooling", "1_Pooling")];
    let modules = format!("[{transformer}, {pooling}, {}]", module("Dense", "2_Dense"));
    let weights = safetensors(&[("linear.weight", vec![1.0; 8])]);
    env.hub.repository.lock().unwrap().files.insert("2_Dense/model.safetensors".to_owned(), weights);
    for (name, content) in [
        ("modules.json", modules.as_str()),
        ("1_Pooling/config.json", r#"{"pooling_mode_cls_token": true}"#),
        ("sentence_bert_config.json", r#"{"max_seq_length": 32}"#),
        ("deeper/1_Pooling/config.json", "not needed"),
        ("2_Dense/config.json", r#"{"in_features": 4, "out_features": 2}"#),
        ("deeper/2_Dense/model.safetensors", "not needed"),
    ] {
        env.hub.repository.lock().unwrap().files.insert(name.to_owned(), content.as_bytes().to_vec());
    }
    env.ok(&["pull", "org/model"]);
    let json = env.ok(&["inspect", "org/model", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let dense =
        serde_json::json!({"name": "2_Dense", "inputs": 4, "outputs": 2, "bias": true, "activation": "tanh"});
    let expected =
        serde_json::json!({"pooling": "first-token", "normalize": false, "max_tokens": 32, "dense": [dense]});
    assert_eq!(json["manifest"]["embedding"], expected);
    let shown = text(&env.ok(&["inspect", "org/model"]).stdout);
    assert!(
        shown.contains("2 numbers, of the first token, through 1 matrix, of at most 32 tokens"),
        "{shown}"
    );
}
