//! A small model drafts tokens for a larger one: the answers are the same. One that can't is refused.

use std::{io::Write, thread};

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use test_support::{MODEL, Options, PrivateStore, Server, import, tiny_config, write_model};

use super::{KEY, exact::counter};

const LARGE: &str = "large";
const SMALL: &str = "small";

/// A store with a model of many layers, and one of a single layer that agrees with it.
fn store() -> PrivateStore {
    let store = PrivateStore::with_names(&["other"]);
    for (name, layers) in [(LARGE, 24), (SMALL, 1)] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = tiny_config();
        config["num_hidden_layers"] = layers.into();
        write_model(folder.path(), &config);
        import(&store.path(), folder.path(), name);
    }
    store
}

fn start(store: &PrivateStore, speculation: &str) -> Server {
    let mut file = NamedTempFile::with_suffix(".yaml").unwrap();
    write!(file, "speculation: {speculation}\nmodels: {{max_loaded: 4}}\n").unwrap();
    Server::start_with(&Options {
        model: LARGE.to_owned(),
        store: Some(store.path()),
        arguments: vec!["--config".to_owned(), file.path().display().to_string()],
        environment: vec![("KR_ADMIN_KEY", KEY.to_owned())],
        ..Options::default()
    })
}

/// Answers to some requests at once, of likely and of drawn tokens.
fn answers(server: &Server) -> Vec<Value> {
    let ask = |n: u64| {
        let words: Vec<String> = (0..5 + n * 3).map(|word| format!("w{}", (word * word + n) % 64)).collect();
        let body = json!({"model": LARGE, "prompt": words.join(" "), "max_tokens": 40, "seed": n, "ignore_eos": true,
            "temperature": if n.is_multiple_of(2) { 0.0 } else { 0.9 }});
        let answer = server.client.post("/v1/completions", &body);
        assert_eq!(answer.status, 200, "{}", answer.json);
        answer.json["choices"].clone()
    };
    thread::scope(|scope| {
        let asked: Vec<_> = (0..8).map(|n| scope.spawn(move || ask(n))).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    })
}

#[test]
fn a_small_model_drafts_for_a_large_one_and_changes_nothing() {
    let store = store();
    let plain = start(&store, "{max_draft_tokens: 0}");
    let expected = answers(&plain);
    drop(plain);
    let server = start(&store, "{draft_models: {large: small}}");
    // Alone, so that guesses cost little.
    let body =
        json!({"model": LARGE, "prompt": "w1 w2 w3", "max_tokens": 4, "temperature": 0, "ignore_eos": true});
    assert_eq!(server.client.post("/v1/completions", &body).status, 200);
    let accepted = counter(&server, "kr_draft_tokens_accepted_total");
    assert!(accepted > 0, "nothing repeats itself in so few words");
    assert_eq!(counter(&server, "kr_draft_tokens_total"), accepted, "the two agree on every token");
    assert_eq!(answers(&server), expected);
    assert!(counter(&server, "kr_draft_tokens_accepted_total") > accepted);
    let models = server.client.get("/v1/models").json;
    let of = |id: &str| models["data"].as_array().unwrap().iter().find(|model| model["id"] == id).cloned();
    assert_eq!(of(LARGE).unwrap()["draft_model"], SMALL);
}

#[test]
fn a_model_that_can_not_draft_is_refused_with_its_reason() {
    let store = store();
    let drafts = format!("{{draft_models: {{{MODEL}: small, other: absent}}}}");
    let server = start(&store, &drafts);
    let admin = server.client.with_key(KEY);
    let load = |model: &str| {
        let answer = admin.post(&format!("/v1/models/{model}/load"), &json!({}));
        (answer.status, answer.json["error"]["message"].as_str().unwrap_or_default().to_owned())
    };
    let (status, message) = load(MODEL);
    assert!(status >= 400 && message.contains("`small`") && message.contains(MODEL), "{status} {message}");
    assert!(message.contains("vocabulary") && message.contains("speculation.draft_models"), "{message}");
    let (status, message) = load("other");
    assert!(
        status >= 400 && message.contains("`absent`") && message.contains("`other`"),
        "{status} {message}"
    );
    assert_eq!(load(LARGE).0, 200, "it has no draft model");
}
