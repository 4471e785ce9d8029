//! Several models in one gateway, loaded and unloaded at run time, by an administrator or because requests need them.

#![allow(clippy::unwrap_used)]

use std::{fs, process::Command, thread};

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use test_support::{
    Answer, Client, MODEL, Options, PrivateStore, Server, StreamAnswer, binary, chat, import,
    process::{is_alive, kill},
    write_tiny_model,
};

const CHAT: &str = "/v1/chat/completions";
const KEY: &str = "an-admin-key-for-the-tests";
const OTHER: &str = "test/other";
const CAPITAL: &str = "What is the capital of France?";
const PARIS: &str = "The capital of France is Paris.";

/// A gateway with an admin key over a store of its own.
struct TestEnv {
    admin: Client,
    server: Server,
    store: PrivateStore,
    _settings: NamedTempFile,
}

impl TestEnv {
    /// It serves [`MODEL`], and loads others only when it is told to.
    fn start() -> Self {
        Self::start_with(MODEL, "models:\n  on_demand: off\n")
    }

    fn start_with(model: &str, settings: &str) -> Self {
        let store = PrivateStore::with_names(&[OTHER]);
        let file = NamedTempFile::with_suffix(".yaml").unwrap();
        fs::write(file.path(), settings).unwrap();
        let server = Server::start_with(&Options {
            model: model.to_owned(),
            store: Some(store.path()),
            arguments: vec!["--config".into(), file.path().to_str().unwrap().into()],
            environment: vec![("KR_ADMIN_KEY", KEY.to_string())],
            ..Options::default()
        });
        Self { admin: server.client.with_key(KEY), server, store, _settings: file }
    }

    fn act(&self, model: &str, action: &str) -> Answer {
        self.admin.post(&format!("/v1/models/{model}/{action}"), &json!({}))
    }

    fn load(&self, model: &str) -> Value {
        let answer = self.act(model, "load");
        assert_eq!((answer.status, &answer.json["state"]), (200, &json!("ready")), "{}", answer.json);
        answer.json
    }

    fn ask(&self, model: &str) -> Answer {
        self.server.client.post(CHAT, &request(model, CAPITAL, 16))
    }

    /// A stream that goes on for a while, after its first events.
    fn stream(&self, model: &str) -> StreamAnswer {
        let mut request = request(model, "Count from one to fifty in words.", 48);
        request["stream"] = true.into();
        request["ignore_eos"] = true.into();
        let mut stream = self.server.client.stream(CHAT, &request);
        assert_eq!(stream.status, 200);
        assert!(stream.next_data().is_some() && stream.next_data().is_some());
        stream
    }

    /// Process id of the model's worker.
    fn worker(&self, model: &str) -> u32 {
        let state = self.server.client.get("/readyz").json;
        let workers = state["workers"].as_array().unwrap();
        let worker = workers.iter().find(|worker| worker["model"] == model);
        worker
            .and_then(|worker| worker["pid"].as_u64())
            .unwrap_or_else(|| panic!("{state}"))
            .try_into()
            .unwrap()
    }

    fn states(&self) -> Vec<(String, String)> {
        let list = self.server.client.get("/v1/models").json;
        let text = |value: &Value| value.as_str().unwrap().to_string();
        list["data"].as_array().unwrap().iter().map(|it| (text(&it["id"]), text(&it["state"]))).collect()
    }
}

fn request(model: &str, question: &str, max_tokens: u32) -> Value {
    let mut request = chat(question, max_tokens);
    request["model"] = model.into();
    request
}

/// All of a stream's text, which came whole, in length and in form.
fn whole(stream: StreamAnswer) {
    let mut events = stream.rest();
    assert_eq!(events.pop().unwrap(), "[DONE]");
    let finish: Value = serde_json::from_str(&events.pop().unwrap()).unwrap();
    assert_eq!(finish["choices"][0]["finish_reason"], "length", "{finish}");
    assert!(!events.iter().any(|event| event.starts_with("{\"error\"")), "{events:?}");
}

fn refused(answer: &Answer, status: u16, code: &str) -> String {
    assert_eq!((answer.status, &answer.json["error"]["code"]), (status, &json!(code)), "{}", answer.json);
    answer.json["error"]["message"].as_str().unwrap().to_string()
}

#[test]
fn a_model_comes_and_goes_while_others_and_it_itself_stream() {
    let env = TestEnv::start();
    let first = env.stream(MODEL);
    let loaded = env.load(OTHER);
    assert_eq!((&loaded["id"], &loaded["digest"]), (&json!(OTHER), &json!(env.store.digest())));
    assert!(loaded["size_bytes"].as_u64().unwrap() > 70_000_000, "{loaded}");
    assert_eq!(env.load(OTHER), loaded, "loading it again changes nothing");
    whole(first);

    for model in [MODEL, OTHER] {
        let answer = env.ask(model).json;
        assert_eq!(
            (&answer["choices"][0]["message"]["content"], &answer["model"]),
            (&json!(PARIS), &json!(model))
        );
    }
    let states: [(String, String); 2] = [MODEL, OTHER].map(|model| (model.into(), "ready".into()));
    assert_eq!(env.states(), states);

    let worker = env.worker(OTHER);
    let second = env.stream(OTHER);
    let unloaded = std::thread::scope(|scope| {
        let unloading = scope.spawn(|| env.act(OTHER, "unload"));
        whole(second);
        unloading.join().unwrap()
    });
    assert_eq!((unloaded.status, &unloaded.json["state"]), (200, &json!("unloaded")), "{}", unloaded.json);
    assert!(!is_alive(worker), "its worker is gone when the answer comes");
    let message = refused(&env.ask(OTHER), 404, "model_not_found");
    assert!(message.contains(OTHER) && message.contains(MODEL), "{message}");
    assert_eq!(env.ask(MODEL).json["choices"][0]["message"]["content"], PARIS);

    let digest = env.store.digest();
    assert_eq!(env.load(&digest)["id"], MODEL, "it is loaded already, under its name");
    assert_eq!(env.act(MODEL, "unload").status, 200);
    assert_eq!(env.server.client.get("/readyz").status, 503);
    assert_eq!(env.load(&digest[..12])["digest"], digest);
    assert_eq!(env.ask(&digest).json["choices"][0]["message"]["content"], PARIS);
}

#[test]
fn only_the_key_opens_and_nothing_else_is_said() {
    let env = TestEnv::start();
    let path = format!("/v1/models/{OTHER}/load");
    let without = env.server.client.post(&path, &json!({}));
    refused(&without, 401, "missing_admin_key");
    let wrong = env.server.client.with_key("an-admin-key-for-the-testz").post(&path, &json!({}));
    refused(&wrong, 401, "invalid_admin_key");
    assert_eq!(env.states().len(), 1);
    assert!(!env.server.log().contains(KEY));
    drop(env);

    let server = Server::start();
    let message = refused(&server.client.with_key(KEY).post(&path, &json!({})), 403, "admin_disabled");
    assert!(message.contains("admin_key_file") && message.contains("KR_ADMIN_KEY"), "{message}");
}

#[test]
fn what_can_not_be_loaded_is_refused_with_what_to_do() {
    let env = TestEnv::start();
    let message = refused(&env.act("no/such-model", "load"), 404, "model_not_found");
    assert!(message.contains("no/such-model") && message.contains("cache-tool"), "{message}");

    env.store.damage_weights(|bytes| bytes.truncate(bytes.len() - 1));
    let message = refused(&env.act(OTHER, "load"), 422, "model_damaged");
    assert!(message.to_lowercase().contains("import"), "{message}");
    let failed = env.admin.get(&format!("/v1/models/{OTHER}")).json;
    assert_eq!(failed["state"], "failed");
    assert!(message.contains(failed["reason"].as_str().unwrap()), "{failed}");
    let shown = env.server.client.get(&format!("/v1/models/{OTHER}")).json["reason"].to_string();
    assert!(!shown.contains(env.store.path().to_str().unwrap()), "{shown}");
    assert_eq!(env.ask(MODEL).json["choices"][0]["message"]["content"], PARIS, "it has its own mapping");
}

#[test]
fn a_crash_in_one_model_touches_no_other() {
    let env = TestEnv::start();
    env.load(OTHER);
    let (mine, others) = (env.worker(MODEL), env.worker(OTHER));
    let survivor = env.stream(MODEL);
    let victim = env.stream(OTHER);
    kill(others);
    whole(victim);
    whole(survivor);
    assert_eq!(env.worker(MODEL), mine);
    // It comes back by itself.
    env.server.wait_until("it is back", |_, _| {
        let state = &env.states()[1].1;
        assert_ne!(state, "draining");
        state == "ready"
    });
    assert_ne!(env.worker(OTHER), others);
    assert_eq!(env.ask(OTHER).json["choices"][0]["message"]["content"], PARIS);
}

#[test]
fn several_models_may_be_served_from_the_start() {
    let store = PrivateStore::with_names(&[OTHER]);
    let arguments = vec!["--model".into(), OTHER.into()];
    let server = Server::start_with(&Options { store: Some(store.path()), arguments, ..Options::default() });
    for model in [MODEL, OTHER] {
        let answer = server.client.post(CHAT, &request(model, CAPITAL, 16)).json;
        assert_eq!(answer["choices"][0]["message"]["content"], PARIS);
    }
}

/// Imports a model of a few thousand weights.
fn import_tiny(store: &PrivateStore, name: &str) {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_model(folder.path());
    import(&store.path(), folder.path(), name);
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(id, state)| ((*id).to_owned(), (*state).to_owned())).collect()
}

#[test]
fn requests_load_the_models_that_they_need_and_these_take_turns() {
    let env = TestEnv::start_with("", "models:\n  max_loaded: 1\n");
    import_tiny(&env.store, "tiny");
    assert_eq!(env.server.client.get("/readyz").status, 200, "it needs no model for that");
    let stored = pairs(&[(MODEL, "stored"), (OTHER, "stored"), ("tiny", "stored")]);
    assert_eq!(env.states(), stored);
    let entry = env.server.client.get(&format!("/v1/models/{MODEL}")).json;
    assert_eq!((&entry["digest"], &entry["max_model_len"]), (&json!(env.store.digest()), &json!(8192)));

    let several = thread::scope(|scope| {
        let asking: Vec<_> = (0..4).map(|_| scope.spawn(|| env.ask(MODEL))).collect();
        asking.into_iter().map(|it| it.join().unwrap()).collect::<Vec<_>>()
    });
    for answer in several {
        assert_eq!(answer.json["choices"][0]["message"]["content"], PARIS, "{}", answer.json);
    }
    let worker = env.worker(MODEL);
    assert_eq!(env.states(), pairs(&[(MODEL, "ready"), (OTHER, "stored"), ("tiny", "stored")]));
    let loaded = env.server.client.get(&format!("/v1/models/{MODEL}")).json;
    assert_eq!((&loaded["max_model_len"], &loaded["created"]), (&entry["max_model_len"], &entry["created"]));

    // While the one model streams, the other has to wait for it.
    let stream = env.stream(MODEL);
    let (tiny, ()) = thread::scope(|scope| {
        let asking = scope.spawn(|| env.server.client.post(CHAT, &request("tiny", "w3 w5", 4)));
        whole(stream);
        (asking.join().unwrap(), ())
    });
    assert_eq!(tiny.status, 200, "{}", tiny.json);
    assert!(!is_alive(worker));
    assert_eq!(env.states(), pairs(&[("tiny", "ready"), (MODEL, "stored"), (OTHER, "stored")]));
    let digest = env.store.digest();
    assert_eq!(env.ask(&digest[..16]).json["choices"][0]["message"]["content"], PARIS);
    assert_eq!(env.states()[0], (MODEL.to_owned(), "ready".to_owned()));

    let message = refused(&env.ask("gpt-9"), 404, "model_not_found");
    assert!(message.contains("gpt-9") && message.contains(MODEL) && message.contains("tiny"), "{message}");
}

/// So little for each worker that it is known what fits: beside the weights, [`MODEL`] takes 256 MiB and 2,176 tokens of 45
/// KiB at least, and a model of next to nothing 256 MiB.
fn within(max_bytes: &str) -> TestEnv {
    let settings = format!("memory:\n  max_bytes: {max_bytes}\nworker:\n  max_num_seqs: 4\n");
    let env = TestEnv::start_with("", &settings);
    import_tiny(&env.store, "tiny");
    env
}

#[test]
fn what_never_fits_into_memory_is_refused_at_once_and_nothing_leaves_for_it() {
    let env = within("400MiB");
    let ask_tiny = || env.server.client.post(CHAT, &request("tiny", "w3 w5", 4));
    assert_eq!(ask_tiny().status, 200);
    let worker = env.worker("tiny");
    for answer in [env.ask(MODEL), env.act(MODEL, "load")] {
        let message = refused(&answer, 422, "model_too_large");
        for part in [MODEL, "for its weights", "`memory.max_bytes`, which is 400.0 MiB", "smaller model"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
    assert_eq!((ask_tiny().status, env.worker("tiny")), (200, worker));
    let metrics = env.server.client.get("/metrics").json;
    assert!(metrics.as_str().unwrap().contains("kr_demand_loads_total 1\n"), "no process was started for it");
}

#[test]
fn what_fits_when_others_leave_waits_for_them() {
    let env = within("600MiB");
    let ask_tiny = || env.server.client.post(CHAT, &request("tiny", "w3 w5", 4));
    assert_eq!(ask_tiny().status, 200);
    let worker = env.worker("tiny");
    // There is place for both by their number, but not in memory.
    let message = refused(&env.act(MODEL, "load"), 409, "insufficient_memory");
    assert!(message.contains("beside `tiny`") && message.contains("unload another model"), "{message}");
    assert_eq!(env.ask(MODEL).json["choices"][0]["message"]["content"], PARIS);
    assert!(!is_alive(worker), "it was idle");
    let stored = |ready: &str| {
        let states = env.states();
        assert_eq!(states[0], (ready.to_owned(), "ready".to_owned()));
        assert!(states[1..].iter().all(|(_, state)| state == "stored"), "{states:?}");
    };
    stored(MODEL);
    // While the one streams, the other has to wait for it.
    let stream = env.stream(MODEL);
    let tiny = thread::scope(|scope| {
        let asking = scope.spawn(ask_tiny);
        whole(stream);
        asking.join().unwrap()
    });
    assert_eq!(tiny.status, 200, "{}", tiny.json);
    stored("tiny");
}

#[test]
fn a_model_that_can_not_be_loaded_is_refused_with_the_reason_and_without_paths() {
    let env = TestEnv::start_with("", "");
    env.store.damage_weights(|bytes| bytes.truncate(bytes.len() - 1));
    for _ in 0..2 {
        let message = refused(&env.ask(OTHER), 422, "model_damaged");
        assert!(message.to_lowercase().contains("import"), "{message}");
        assert!(!message.contains(env.store.path().to_str().unwrap()), "{message}");
    }
    let metrics = env.server.client.get("/metrics").json;
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("kr_demand_loads_total 1\n"), "the second request was refused at once");
}

#[test]
fn the_worker_program_lists_what_the_store_has() {
    let store = PrivateStore::with_names(&[OTHER]);
    import_tiny(&store, "tiny");
    let list = |path: &std::path::Path| {
        Command::new(binary("kr-worker")).arg("--list-models").arg("--store").arg(path).output().unwrap()
    };
    let output = list(&store.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let models: Value = serde_json::from_slice(&output.stdout).unwrap();
    let models = models.as_array().unwrap();
    let names: Vec<_> = models.iter().map(|model| &model["name"]).collect();
    assert_eq!(names, [&json!(MODEL), &json!(OTHER), &json!("tiny")]);
    assert_eq!((&models[0]["digest"], &models[0]["context_length"]), (&json!(store.digest()), &json!(8192)));
    assert_eq!((&models[2]["architecture"], &models[2]["context_length"]), (&json!("llama"), &json!(256)));

    let absent = list(&store.path().join("absent"));
    assert!(!absent.status.success() && absent.stdout.is_empty());
    assert!(String::from_utf8_lossy(&absent.stderr).contains("no artifact store"));
}
