//! A prompt that can't fit the model's context, whatever its tokens are, is refused before anything is spent on it.
//! Tokenizing it would take seconds and hundreds of times its size in memory.

#![allow(clippy::unwrap_used)]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};
#[cfg(target_os = "linux")]
use test_support::memory;
use test_support::{Options, Server, import, tiny_config, write_model};

/// Just below what the gateway takes.
const LEN: usize = (8 << 20) - 4096;

/// Minutes on a busy machine without the check; milliseconds with it.
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_prompt_that_can_not_fit_costs_next_to_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_with_model(folder.path());
    let server =
        Server::start_with(&Options { model: "tiny".into(), store: Some(store), ..Options::default() });
    let client = &server.client;
    let fits = client.post("/v1/completions", &json!({"model": "tiny", "prompt": "a b", "max_tokens": 1}));
    assert_eq!((fits.status, &fits.json["usage"]["prompt_tokens"]), (200, &json!(3)), "{}", fits.json);
    let fits = client.post("/v1/chat/completions", &chat("a b"));
    assert_eq!(fits.status, 200, "{}", fits.json);

    #[cfg(target_os = "linux")]
    let before = peak(&server);
    for (what, text) in
        [("words", "a ".repeat(LEN / 2)), ("one word", "a".repeat(LEN)), ("spaces", " ".repeat(LEN))]
    {
        let completion = json!({"model": "tiny", "prompt": text, "max_tokens": 1});
        for (path, param, body) in
            [("/v1/completions", "prompt", completion), ("/v1/chat/completions", "messages", chat(&text))]
        {
            let began = Instant::now();
            let answer = client.post(path, &body);
            let took = began.elapsed();
            eprintln!("{path}, {what}: {took:?}");
            let error = &answer.json["error"];
            assert_eq!(
                (answer.status, &error["param"]),
                (400, &json!(param)),
                "{path}, {what}: {}",
                answer.json
            );
            assert_eq!(error["code"], "context_length_exceeded", "{path}, {what}");
            assert!(took < LIMIT, "{path}, {what}: {took:?}");
        }
    }
    #[cfg(target_os = "linux")]
    {
        let grown = peak(&server) - before;
        eprintln!("the worker's peak grew by {} MiB", grown >> 20);
        // A few copies of the request: its frame, its text, what the template made of it.
        assert!(grown < 128 << 20, "the worker's peak grew by {} MiB", grown >> 20);
    }
}

fn chat(content: &str) -> Value {
    json!({"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 1})
}

/// Imports a tiny model whose tokens are bytes into another store.
fn store_with_model(folder: &Path) -> std::path::PathBuf {
    let (source, store) = (folder.join("source"), folder.join("store"));
    let mut config = tiny_config();
    config["max_position_embeddings"] = 2048.into();
    write_model(&source, &config);
    std::fs::write(source.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    import(&store, &source, "tiny");
    store
}

/// One token a byte, for as many bytes as the model has rows: "a" and the space are among them.
fn tokenizer() -> Value {
    let printable = |byte: &u32| matches!(*byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..256_u32).filter(|byte| !printable(byte)).zip(0x100_u32..);
    let mut characters: Vec<(u32, u32)> =
        (0..256).filter(printable).map(|byte| (byte, byte)).chain(others).collect();
    // Lower case and space first.
    characters.sort_unstable_by_key(|&(byte, _)| (byte != 0x20 && !(0x61..=0x7a).contains(&byte), byte));
    let vocab: Map<String, Value> = characters
        .into_iter()
        .take(64)
        .enumerate()
        .map(|(id, (_, character))| (char::from_u32(character).unwrap().to_string(), json!(id)))
        .collect();
    let stage =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": stage, "post_processor": null, "decoder": stage,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    })
}

/// The most memory that the worker has had resident, in bytes.
#[cfg(target_os = "linux")]
fn peak(server: &Server) -> u64 {
    memory::peak(server.workers()[0]).unwrap()
}
