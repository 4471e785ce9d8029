//! A stored model whose bytes have changed, while its sizes and headers have not.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use test_support::{MODEL, Options, PrivateStore, Server, chat};

const KEY: &str = "an-admin-key-for-the-tests";
const OTHER: &str = "other";

/// For reading the model beside other work.
const READ: Duration = Duration::from_secs(120);

/// Flips one bit in the middle of the weights.
fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
}

/// A server with an admin key and `cache.verify`.
fn options(store: &PrivateStore, verify: &str) -> Options {
    let file = store.path().join("runtime.yaml");
    fs::write(&file, format!("cache:\n  verify: {verify}\n")).unwrap();
    let arguments = vec!["--config".to_string(), file.to_str().unwrap().to_string()];
    let environment = vec![("KR_ADMIN_KEY", KEY.to_string())];
    Options { store: Some(store.path()), arguments, environment, ..Options::default() }
}

/// Asks for the metrics until a verification has ended, and returns its outcome.
fn outcome(server: &Server) -> &'static str {
    let deadline = Instant::now() + READ;
    loop {
        let metrics = server.client.get("/metrics").json;
        let ended = |outcome: &str| {
            metrics
                .as_str()
                .unwrap()
                .contains(&format!("kr_verify_runs_total{{model=\"{MODEL}\",outcome=\"{outcome}\"}} 1"))
        };
        if let Some(outcome) = ["good", "damaged"].into_iter().find(|outcome| ended(outcome)) {
            return outcome;
        }
        assert!(Instant::now() < deadline, "{}", server.log());
    }
}

fn load(server: &Server, model: &str) -> (u16, Value) {
    let answer = server.client.with_key(KEY).post(&format!("/v1/models/{model}/load"), &json!({}));
    (answer.status, answer.json)
}

#[test]
fn damage_is_found_while_the_model_serves_and_no_load_takes_it_again() {
    let store = PrivateStore::with_names(&[OTHER]);
    store.damage_weights(|bytes| flip(bytes));
    let server = Server::start_with(&options(&store, "background"));
    assert_eq!(outcome(&server), "damaged");
    let health = server.client.get("/readyz");
    let reason =
        health.json["models"][0]["reason"].as_str().unwrap_or_else(|| panic!("{}", health.json)).to_string();
    assert!(reason.contains("Import or pull"), "{reason}");
    assert_eq!(server.client.get("/v1/models").json["data"][0]["reason"], reason);
    assert!(server.log().contains("ERROR"), "{}", server.log());
    let answer = server.client.post("/v1/chat/completions", &chat("hi", 2));
    assert_eq!(answer.status, 200, "what is mapped goes on: {}", answer.json);

    let (status, refused) = load(&server, OTHER);
    assert_eq!((status, &refused["error"]["code"]), (422, &json!("model_damaged")), "{refused}");
    assert!(refused["error"]["message"].as_str().unwrap().contains("Import or pull"), "{refused}");
}

#[test]
fn what_is_whole_is_found_to_be() {
    let store = PrivateStore::with_names(&[OTHER]);
    let server = Server::start_with(&options(&store, "background"));
    assert_eq!(outcome(&server), "good");
    assert_eq!(server.client.get("/readyz").json["models"][0]["reason"], Value::Null);
    assert_eq!(load(&server, OTHER).0, 200);
}

#[test]
fn full_verification_comes_before_anything_is_served() {
    let store = PrivateStore::with_names(&[OTHER]);
    store.damage_weights(|bytes| flip(bytes));
    let output = options(&store, "full").command().output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && log.contains("Import or pull"), "{log}");
    assert_eq!(output.stdout, b"", "no readiness line");
    // It was set aside, so that not even a look at the headers lets it through.
    let output = options(&store, "header").command().output().unwrap();
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
