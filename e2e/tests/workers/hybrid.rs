//! A model whose layers keep states: its streams outlive their workers, as those of other models do.

use serde_json::{Value, json};
use test_support::{Options, Server, import, process::kill, write_tiny_hybrid};

use super::exact::counter;

const MODEL: &str = "hybrid";

fn text(events: impl IntoIterator<Item = String>) -> String {
    let text = |event: String| {
        let event: Value = serde_json::from_str(&event).ok()?;
        Some(event["choices"][0]["text"].as_str()?.to_owned())
    };
    events.into_iter().filter_map(text).collect()
}

/// The second worker has none of the states, and computes them from the tokens.
#[test]
fn a_stream_of_a_hybrid_outlives_its_worker() {
    let (store, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_tiny_hybrid(source.path());
    import(store.path(), source.path(), MODEL);
    let server = Server::start_with(&Options {
        model: MODEL.to_owned(),
        store: Some(store.path().to_owned()),
        ..Options::default()
    });
    let words: Vec<String> = (0..140).map(|word| format!("w{}", word * word % 64)).collect();
    let request = json!({
        "model": MODEL, "prompt": words.join(" "), "max_tokens": 2500, "temperature": 1, "seed": 5,
        "ignore_eos": true, "stream": true,
    });
    let expected = text(server.client.stream("/v1/completions", &request).rest());
    // The model's end token has no text.
    assert!(expected.split_whitespace().count() > 2000, "{expected}");
    let mut stream = server.client.stream("/v1/completions", &request);
    let first: Vec<String> = (0..40).map(|_| stream.next_data().unwrap()).collect();
    kill(server.workers()[0]);
    assert_eq!(text(first.into_iter().chain(stream.rest())), expected);
    assert!(counter(&server, "kr_migrations_total") > 0, "it moved to another worker");
}
