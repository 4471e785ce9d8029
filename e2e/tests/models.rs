//! Several models in one gateway, loaded and unloaded at run time.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use test_support::{
    Answer, Client, MODEL, Options, PrivateStore, Server, StreamAnswer, chat,
    process::{is_alive, kill},
};

const CHAT: &str = "/v1/chat/completions";
const KEY: &str = "an-admin-key-for-the-tests";
const OTHER: &str = "test/other";
const CAPITAL: &str = "What is the capital of France?";
const PARIS: &str = "The capital of France is Paris.";

/// A gateway with an admin key that serves [`MODEL`] from a store of its own.
struct TestEnv {
    admin: Client,
    server: Server,
    store: PrivateStore,
}

impl TestEnv {
    fn start() -> Self {
        let store = PrivateStore::with_names(&[OTHER]);
        let environment = vec![("KR_ADMIN_KEY", KEY.to_string())];
        let options = Options { store: Some(store.path()), environment, ..Options::default() };
        let server = Server::start_with(&options);
        Self { admin: server.client.with_key(KEY), server, store }
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
    assert!(!events.iter().any(|event| event.contains("\"error\"")), "{events:?}");
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
