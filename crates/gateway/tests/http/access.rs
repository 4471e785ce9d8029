//! Keys: who may use the server, and who may change it.

use axum::{
    body::Body,
    http::{Request, request::Builder},
};
use protocol::message::FinishReason;
use serde_json::json;

use crate::support::*;

const ALICE: &str = "alice-key-0123456789";
const BOB: &str = "bob-key-0123456789";
const ADMIN: &str = "admin-key-0123456789";

/// Files with keys, and settings that name them.
struct KeyFiles {
    api: tempfile::NamedTempFile,
    admin: tempfile::NamedTempFile,
}

impl KeyFiles {
    fn new() -> Self {
        let files = Self {
            api: tempfile::NamedTempFile::new().unwrap(),
            admin: tempfile::NamedTempFile::new().unwrap(),
        };
        std::fs::write(files.api.path(), format!("alice:{ALICE}\nbob {BOB}\n")).unwrap();
        std::fs::write(files.admin.path(), ADMIN).unwrap();
        files
    }

    fn settings(&self) -> String {
        let (api, admin) = (self.api.path().display(), self.admin.path().display());
        format!("server: {{api_keys_file: {api}, admin_key_file: {admin}}}\n")
    }
}

async fn reply(env: &TestEnv, request: Builder, body: impl Into<Body>) -> Reply {
    Reply::read(env.send(request.body(body.into()).unwrap()).await).await
}

#[tokio::test]
async fn with_api_keys_all_but_health_checks_needs_one() {
    let files = KeyFiles::new();
    let (env, _worker) = TestEnv::ready(&files.settings()).await;
    assert_eq!(env.get("/livez").await.status.as_u16(), 200);
    let ready = env.get("/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.json()), (200, json!({"ready": true, "shutting_down": false})));
    for (method, path) in [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/tiny"),
        ("GET", "/metrics"),
        ("POST", CHAT),
        ("POST", COMPLETIONS),
        ("POST", "/v1/models/tiny/load"),
        ("GET", "/no/such/path"),
        ("OPTIONS", CHAT),
        ("GET", "/livez/"),
        ("GET", "/%6civez"),
    ] {
        for (headers, code) in [
            (None, "missing_api_key"),
            (Some(("authorization", "Basic YTpi".to_owned())), "missing_api_key"),
            (Some(("authorization", format!("Bearer {ALICE}x"))), "invalid_api_key"),
            (Some(("x-api-key", "x".to_owned())), "invalid_api_key"),
        ] {
            let request = Request::builder().method(method).uri(path);
            let request = match &headers {
                Some((name, value)) => request.header(*name, value),
                None => request,
            };
            let refused = reply(&env, request, "").await;
            assert_eq!(
                refused.error(),
                (401, "invalid_request_error".into(), code.into()),
                "{method} {path}"
            );
            assert_eq!(refused.header("www-authenticate"), "Bearer");
            assert!(!refused.text.contains("alice"), "{}", refused.text);
        }
    }
    for key in [ALICE, BOB, ADMIN] {
        for request in [
            Request::get("/v1/models").header("authorization", format!("Bearer {key}")),
            Request::get("/metrics").header("x-api-key", key),
        ] {
            assert_eq!(reply(&env, request, "").await.status.as_u16(), 200, "{key}");
        }
        let ready = reply(&env, Request::get("/readyz").header("x-api-key", key), "").await.json();
        assert_eq!(ready["models"][0]["model"], "tiny");
        let unknown = reply(&env, Request::get("/no/such/path").header("x-api-key", key), "").await;
        assert_eq!(unknown.error().2, "unknown_url");
    }
}

#[tokio::test]
async fn a_request_with_a_key_is_answered_and_only_an_admin_key_loads() {
    let files = KeyFiles::new();
    let (env, mut worker) = TestEnv::ready(&files.settings()).await;
    let request = Request::post(CHAT).header("content-type", "application/json").header("x-api-key", BOB);
    let begun = env.begin_request(request.body(chat(json!({})).to_string().into()).unwrap());
    let id = worker.generate().await.id;
    worker.admit(id).await;
    worker.events(id, vec![chunk("x"), finished(FinishReason::Stop)]).await;
    assert_eq!(soon("an answer", begun).await.unwrap().status().as_u16(), 200);

    let load = |key: &str| Request::post("/v1/models/tiny/load").header("x-api-key", key);
    assert_eq!(reply(&env, load(ALICE), "").await.error().2, "invalid_admin_key");
    assert_eq!(reply(&env, load(ADMIN), "").await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_page_may_ask_whether_it_may_send_a_key_without_sending_one() {
    let files = KeyFiles::new();
    let (env, _worker) = TestEnv::ready(&files.settings()).await;
    let origin = "http://localhost:3000";
    let preflight = |origin: &str| {
        Request::options(CHAT)
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,x-api-key,content-type")
    };
    let allowed = reply(&env, preflight(origin), "").await;
    assert_eq!(allowed.status.as_u16(), 204);
    assert_eq!(allowed.header("access-control-allow-origin"), origin);
    assert_eq!(allowed.header("access-control-allow-headers"), "authorization,x-api-key,content-type");
    assert_eq!(reply(&env, preflight("https://evil.example"), "").await.error().2, "origin_not_allowed");
    let refused = reply(&env, Request::get("/v1/models").header("origin", origin), "").await;
    assert_eq!(refused.error().2, "missing_api_key");
    assert_eq!(refused.header("access-control-allow-origin"), origin, "a page can read why");
}

#[tokio::test]
async fn keys_can_change_while_the_server_runs() {
    let files = KeyFiles::new();
    let settings = files.settings();
    let (mut env, _worker) = TestEnv::ready(&settings).await;
    let ask = async |env: &TestEnv, key: &str| {
        reply(env, Request::get("/v1/models").header("x-api-key", key), "").await.status.as_u16()
    };
    assert_eq!((ask(&env, ALICE).await, ask(&env, BOB).await), (200, 200));
    std::fs::write(files.api.path(), format!("alice:{ALICE}\ncarol:carol-key-0123456789")).unwrap();
    assert_eq!(ask(&env, BOB).await, 200, "it is read when it is asked for");
    let changes = env.reload(&settings).unwrap();
    assert_eq!((changes.live.len(), changes.live[0].key), (1, "server.api_keys_file"));
    assert_eq!((ask(&env, ALICE).await, ask(&env, BOB).await), (200, 401));
    assert_eq!(ask(&env, "carol-key-0123456789").await, 200);

    std::fs::write(files.api.path(), "carol:short").unwrap();
    assert!(env.reload(&settings).unwrap_err().to_string().contains(":1 has 5 characters"));
    assert_eq!(ask(&env, ALICE).await, 200, "a bad file changes nothing");
    env.reload("").unwrap();
    assert_eq!(env.get("/v1/models").await.status.as_u16(), 200);
}
