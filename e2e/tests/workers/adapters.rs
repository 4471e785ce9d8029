//! Adapters are served beside their base, by its workers.

use std::{io::Write, thread};

use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};
use test_support::{
    Options, Server, import, import_adapter, process::kill, write_tiny_adapter, write_tiny_model,
};

use super::{has_worker, ready_workers};

const BASE: &str = "tiny";
const ONE: &str = "tiny:one";
const TWO: &str = "tiny:two";
const MODELS: [&str; 3] = [BASE, ONE, TWO];

/// A store with a model and two adapters of it, and a gateway that serves the model.
struct TestEnv {
    server: Server,
    store: TempDir,
    _settings: NamedTempFile,
}

impl TestEnv {
    fn start() -> Self {
        let store = tempfile::tempdir().unwrap();
        let source = tempfile::tempdir().unwrap();
        write_tiny_model(source.path());
        import(store.path(), source.path(), BASE);
        for (name, seed) in [("one", 1), ("two", 2)] {
            adapter(&store, name, seed);
        }
        let mut settings = NamedTempFile::with_suffix(".yaml").unwrap();
        writeln!(settings, "prefix_cache: {{disk_max_bytes: 1GiB}}").unwrap();
        let server = Server::start_with(&Options {
            model: BASE.to_owned(),
            store: Some(store.path().to_owned()),
            arguments: vec!["--config".to_owned(), settings.path().display().to_string()],
            ..Options::default()
        });
        Self { server, store, _settings: settings }
    }

    /// The tokens' text, and how many of the prompt's were known.
    fn ask(&self, model: &str, first: u64) -> (String, u64) {
        let answer = self.server.client.post("/v1/completions", &request(model, first));
        assert_eq!(answer.status, 200, "{}", answer.json);
        let json = answer.json;
        assert_eq!(json["model"], model);
        let cached = json["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        (json["choices"][0]["text"].as_str().unwrap().to_owned(), cached)
    }

    fn models(&self) -> Vec<Value> {
        self.server.client.get("/v1/models").json["data"].as_array().unwrap().clone()
    }
}

fn adapter(store: &TempDir, name: &str, seed: usize) {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_adapter(folder.path(), seed);
    import_adapter(store.path(), folder.path(), BASE, name);
}

/// For 30 tokens behind 140, of which the first says which prompt it is.
fn request(model: &str, first: u64) -> Value {
    let words: Vec<String> = (first..first + 140).map(|word| format!("w{}", word * word % 64)).collect();
    json!({"model": model, "prompt": words.join(" "), "max_tokens": 30, "temperature": 0, "ignore_eos": true})
}

#[test]
fn adapters_are_listed_and_answer_with_the_workers_of_their_base() {
    let env = TestEnv::start();
    let listed = env.models();
    for name in [ONE, TWO] {
        let model = listed.iter().find(|model| model["id"] == name).unwrap();
        assert_eq!((&model["state"], &model["parent"]), (&json!("ready"), &json!(BASE)), "{model}");
    }
    let base = listed.iter().find(|model| model["id"] == BASE).unwrap();
    assert_eq!(base["parent"], Value::Null);
    assert_eq!(env.server.client.get(&format!("/v1/models/{ONE}")).json["parent"], BASE);

    // Equal prompts share nothing between models, and everything within one.
    let alone = MODELS.map(|model| env.ask(model, 3));
    assert!(alone.iter().all(|(_, cached)| *cached == 0), "{alone:?}");
    assert!(alone[0].0 != alone[1].0 && alone[1].0 != alone[2].0 && alone[0].0 != alone[2].0, "{alone:?}");
    for (model, (text, _)) in MODELS.iter().zip(&alone) {
        let (again, cached) = env.ask(model, 3);
        assert!(again == *text && cached >= 128, "{model}: {cached}");
    }
    // All at once, in the same steps; then one by one.
    let prompts = [5, 6, 7];
    let found = thread::scope(|scope| {
        let env = &env;
        let ask = |model, first| scope.spawn(move || env.ask(model, first).0);
        let asked = prompts.map(|first| MODELS.map(|model| ask(model, first)));
        asked.map(|asked| asked.map(|asked| asked.join().unwrap()))
    });
    let expected = prompts.map(|first| MODELS.map(|model| env.ask(model, first).0));
    assert_eq!(found, expected);
    assert_eq!(env.server.workers().len(), 1, "no copy of the weights");
    let metrics = env.server.client.get("/metrics").json.as_str().unwrap().to_owned();
    let line = format!("kr_request_success_total{{model=\"{ONE}\",finished_reason=\"length\"}} 8");
    assert!(metrics.contains(&line), "no {line} in {metrics}");
}

#[test]
fn an_unknown_adapter_is_not_found_and_one_that_was_just_imported_is() {
    let env = TestEnv::start();
    let answer = env.server.client.post("/v1/completions", &request("tiny:none", 1));
    assert_eq!((answer.status, &answer.json["error"]["code"]), (404, &json!("model_not_found")));
    let message = answer.json["error"]["message"].as_str().unwrap();
    assert!(message.contains("`tiny:none`") && message.contains(&format!("`{ONE}`")), "{message}");
    adapter(&env.store, "none", 3);
    // A list of the store of the last second may be used.
    env.server.wait_until("the adapter", |_, _| {
        env.server.client.post("/v1/completions", &request("tiny:none", 1)).status == 200
    });
    let (text, _) = env.ask("tiny:none", 1);
    assert_ne!(text, env.ask(BASE, 1).0);
    // The tokenizer and the template are the base's.
    let tokens =
        |model: &str| env.server.client.post("/tokenize", &json!({"model": model, "content": "w1 w2"})).json;
    assert_eq!(tokens(ONE), tokens(BASE));
}

#[test]
fn a_stream_keeps_its_adapter_when_its_worker_dies() {
    let env = TestEnv::start();
    let expected = env.ask(TWO, 9).0;
    let mut stream = request(TWO, 9);
    stream["stream"] = true.into();
    let mut stream = env.server.client.stream("/v1/completions", &stream);
    let first = stream.next_data().unwrap();
    let worker = env.server.workers()[0];
    kill(worker);
    let mut text = String::new();
    for event in [first].into_iter().chain(stream.rest()).filter(|event| event != "[DONE]") {
        let event: Value = serde_json::from_str(&event).unwrap();
        text += event["choices"][0]["text"].as_str().unwrap_or_default();
    }
    assert_eq!(text, expected);
    env.server
        .wait_until("another process", |_, state| ready_workers(state) == 1 && !has_worker(state, worker));
}
