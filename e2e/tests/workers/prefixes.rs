//! What workers keep on disk outlives them.

use std::io::Write;

use serde_json::{Value, json};
use test_support::{MODEL, Options, PrivateStore, Server, process::kill};

use super::{has_worker, ready_workers};

/// Tokens of what is kept at once.
const SEGMENT: u64 = 128;

/// The answer to some four hundred tokens, and how many of these were known.
fn ask(server: &Server) -> (String, u64) {
    let numbers: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    let prompt = numbers.join(", ");
    let request = json!({"model": MODEL, "prompt": prompt, "max_tokens": 12, "temperature": 0});
    let answer: Value = server.client.post("/v1/completions", &request).json;
    let text = answer["choices"][0]["text"].as_str().unwrap().to_owned();
    assert!(answer["usage"]["prompt_tokens"].as_u64() > Some(3 * SEGMENT), "{answer}");
    (text, answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap())
}

/// Files that are not being written.
fn whole_files(store: &PrivateStore) -> usize {
    let files = std::fs::read_dir(store.path().join("prefixes")).unwrap();
    files.filter(|file| file.as_ref().unwrap().path().extension().is_none()).count()
}

#[test]
fn what_a_worker_has_computed_outlives_it_and_the_server() {
    let store = PrivateStore::with_names(&[]);
    let mut settings = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    settings.write_all(b"prefix_cache: {disk_max_bytes: 1GiB}\n").unwrap();
    let config = ["--config".to_owned(), settings.path().display().to_string()];
    let options = Options { store: Some(store.path()), arguments: config.to_vec(), ..Options::default() };

    let server = Server::start_with(&options);
    let (text, cached) = ask(&server);
    assert_eq!(cached, 0);
    server.wait_until("three segments on disk", |_, _| whole_files(&store) >= 3);
    let worker = server.workers()[0];
    kill(worker);
    server.wait_until("another process", |_, state| ready_workers(state) == 1 && !has_worker(state, worker));
    let (again, cached) = ask(&server);
    assert!(again == text && cached >= 3 * SEGMENT, "{cached}");
    drop(server);

    let (again, cached) = ask(&Server::start_with(&options));
    assert!(again == text && cached >= 3 * SEGMENT, "{cached}");
}
