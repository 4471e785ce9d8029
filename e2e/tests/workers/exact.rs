//! A request's answer is the same whatever is computed beside it, and however.

use std::{io::Write, sync::mpsc, thread};

use serde_json::{Value, json};
use test_support::{MODEL, Options, PrivateStore, Server, process::kill};

use super::two_ready;

const REQUESTS: u32 = 64;

const TEXT: &str = "The ship moves over the red sea and the blue ship follows it. In the morning the captain counted \
                    eleven birds, four whales and a small island that was on no map.";

/// What a client sees of an answer: its text, why it ended, its tokens, and how likely these were.
type Seen = (String, String, u64, Value);

/// However slow the machine is, all of them run at once.
const PATIENT: &str =
    "stream_registry: {wait_timeout_ms: 600000, adaptive_limits: {min_streams: 64, max_streams: 64}}\n";

/// Alone, each after the other, with nothing kept and nothing guessed.
const ALONE: &str =
    "worker: {max_num_seqs: 1}\nprefix_cache: {enabled: false}\nspeculation: {max_draft_tokens: 0}\n";

/// Short and long ones that share beginnings or not, with drawn tokens and likely ones, penalties, ends and constraints.
fn request(n: u32) -> Value {
    let words = |count: u32, seed: u32| -> String {
        let word = |i: u32| {
            ["red", "blue", "ship", "moves", "over", "the", "sea", "and"][((i * i + seed) % 8) as usize]
        };
        (0..count).map(word).collect::<Vec<_>>().join(" ")
    };
    let text = match n % 4 {
        0 => format!("Tell me about {}.", words(3, n)),
        1 => format!("{} Now go on with this story: {}", words(150, 0), words(n, n)),
        2 => format!("Repeat this text, word by word: {TEXT}"),
        _ => format!("{} What is number {n}?", words(90, n % 8)),
    };
    let mut request =
        json!({"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 6 + n % 15});
    let mut set = |name: &str, value: Value| request[name] = value;
    match n % 3 {
        _ if n % 4 == 2 => set("max_tokens", 30.into()),
        0 => set("temperature", 0.into()),
        1 => set("temperature", 0.8.into()),
        _ => set("top_p", 0.9.into()),
    }
    set("seed", n.into());
    match n % 5 {
        _ if n % 8 == 2 => set("temperature", 0.into()),
        0 => set("repetition_penalty", 1.2.into()),
        1 => set("presence_penalty", 0.5.into()),
        2 => set("top_k", 20.into()),
        3 => set("min_p", 0.05.into()),
        _ => set("stop", json!(["e s"])),
    }
    if n % 8 == 3 {
        set("logprobs", true.into());
        set("top_logprobs", 3.into());
    }
    match n % 16 {
        5 => set("guided_regex", json!("[a-z ]{3,40}\\.")),
        9 => set("response_format", json!({"type": "json_object"})),
        14 => set("guided_choice", json!(["red ship", "blue sea", "nothing at all"])),
        _ => {}
    }
    request
}

/// Asks for all of them at once. `between` is called when some have been answered.
fn answers(server: &Server, between: impl FnOnce()) -> Vec<Seen> {
    let (answered, answers) = mpsc::channel();
    let mut seen = vec![Seen::default(); REQUESTS as usize];
    thread::scope(|scope| {
        for n in 0..REQUESTS {
            let answered = answered.clone();
            scope.spawn(move || {
                let answer = server.client.post("/v1/chat/completions", &request(n));
                answered.send((n, answer)).unwrap();
            });
        }
        let mut between = Some(between);
        for (count, (n, answer)) in answers.iter().take(REQUESTS as usize).enumerate() {
            let (body, choice) = (&answer.json, &answer.json["choices"][0]);
            assert_eq!(answer.status, 200, "{n}: {body}");
            let text = choice["message"]["content"].as_str().unwrap().to_owned();
            let reason = choice["finish_reason"].as_str().unwrap().to_owned();
            let tokens = body["usage"]["completion_tokens"].as_u64().unwrap();
            seen[n as usize] = (text, reason, tokens, choice["logprobs"].clone());
            if count == 5 {
                between.take().into_iter().for_each(|between| between());
            }
        }
    });
    seen
}

fn start(settings: &str, workers: u32, store: Option<&PrivateStore>) -> Server {
    let mut file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    file.write_all(format!("{PATIENT}{settings}").as_bytes()).unwrap();
    let arguments = vec!["--config".to_owned(), file.path().display().to_string()];
    let store = store.map(PrivateStore::path);
    Server::start_with(&Options { store, workers, arguments, ..Options::default() })
}

/// The sum of a counter over all of its labels.
pub(super) fn counter(server: &Server, name: &str) -> u64 {
    let answer = server.client.get("/metrics");
    let metrics = answer.json.as_str().unwrap();
    let counted =
        metrics.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')));
    let values: Vec<u64> = counted.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(!values.is_empty(), "{name}: {metrics}");
    values.iter().sum()
}

#[test]
fn answers_do_not_depend_on_how_they_are_computed() {
    let expected = answers(&start(ALONE, 1, None), || {});
    assert!(expected.iter().any(|(_, reason, ..)| reason == "stop"));
    assert!(expected.iter().any(|(_, reason, ..)| reason == "length"));
    assert!(expected.iter().any(|(.., logprobs)| logprobs["content"][5]["top_logprobs"][2].is_object()));
    let same = |found: &[Seen], how: &str| {
        for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "{how}, request {n}: {}", request(n as u32));
        }
    };

    let server = start("worker: {max_prompt_chunk_tokens: 512}\n", 1, None);
    same(&answers(&server, || {}), "all at once");
    assert!(counter(&server, "kr_prefix_cache_hits_total") > 1000, "beginnings were computed once");
    drop(server);

    // Steps of a few sequences have rows for guesses.
    let few = "worker: {max_prompt_chunk_tokens: 16, max_num_seqs: 4}\nprefix_cache: {enabled: false}\n";
    let server = start(few, 1, None);
    same(&answers(&server, || {}), "a few at a time, in small parts");
    assert!(counter(&server, "kr_draft_tokens_accepted_total") > 20, "texts were guessed");
    drop(server);

    // Room for some of them at a time; what is computed for later ones is taken from earlier ones and computed again.
    let short = "worker: {kv_max_bytes: 80MiB, max_num_seqs: 24}\nspeculation: {max_draft_tokens: 3}\n";
    same(&answers(&start(short, 1, None), || {}), "with little memory");

    let disk = PrivateStore::with_names(&[]);
    let kept = "prefix_cache: {disk_max_bytes: 1GiB}\n";
    same(&answers(&start(kept, 1, Some(&disk)), || {}), "to disk");
    same(&answers(&start(kept, 1, Some(&disk)), || {}), "from disk");

    let server = start("", 2, None);
    two_ready(&server);
    let victim = server.workers()[0];
    same(&answers(&server, || kill(victim)), "with a worker killed");
    assert!(counter(&server, "kr_migrations_total") > 0);
}
