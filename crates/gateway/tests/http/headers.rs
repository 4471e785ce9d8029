//! Headers: methods, media types, ids, and who may ask.

use axum::{
    body::Body,
    http::{Request, request::Builder},
};
use protocol::message::{Failure, FailureKind, Report};
use serde_json::{Value, json};

use crate::support::*;

async fn reply(env: &TestEnv, request: Builder, body: impl Into<Body>) -> Reply {
    Reply::read(env.send(request.body(body.into()).unwrap()).await).await
}

#[tokio::test]
async fn allow_names_the_methods_of_the_path() {
    let (env, _worker) = TestEnv::ready("").await;
    for (path, allowed) in [
        (CHAT, vec!["POST"]),
        (COMPLETIONS, vec!["POST"]),
        ("/v1/models", vec!["GET", "HEAD"]),
        ("/v1/models/tiny", vec!["GET", "HEAD"]),
        ("/v1/models/org/name", vec!["GET", "HEAD"]),
        ("/v1/models/tiny/load", vec!["POST"]),
        ("/v1/models/org/name/unload", vec!["POST"]),
        ("/livez", vec!["GET", "HEAD"]),
        ("/readyz", vec!["GET", "HEAD"]),
        ("/metrics", vec!["GET", "HEAD"]),
    ] {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
            let answer = reply(&env, Request::builder().method(method).uri(path), "").await;
            let refused = answer.status.as_u16() == 405;
            assert_eq!(refused, !allowed.contains(&method), "{method} {path}: {}", answer.status);
            if refused {
                let named: Vec<_> = answer.header("allow").split(',').map(str::trim).collect();
                assert_eq!(named, allowed, "{method} {path}");
                if method != "HEAD" {
                    assert_eq!(answer.error().2, "method_not_allowed");
                }
            }
        }
    }
}

#[tokio::test]
async fn bodies_in_another_form_are_named() {
    let (env, _worker) = TestEnv::ready("").await;
    let json = "application/json";
    for (media_type, encoding, code, named) in [
        ("application/x-www-form-urlencoded", "", "unsupported_media_type", "x-www-form-urlencoded"),
        (json, "gzip", "unsupported_encoding", "gzip"),
        (json, "br, identity", "unsupported_encoding", "br, identity"),
        ("application/json; charset=utf-16", "", "unsupported_charset", "utf-16"),
        ("application/json; x=1; charset=\"ISO-8859-1\"", "", "unsupported_charset", "ISO-8859-1"),
    ] {
        let request =
            Request::post(CHAT).header("content-type", media_type).header("content-encoding", encoding);
        let answer = reply(&env, request, b"\x1f\x8b".as_slice()).await;
        assert_eq!(answer.error(), (415, "invalid_request_error".into(), code.into()));
        assert!(answer.text.contains(named), "{}", answer.text);
        assert_eq!(answer.header("accept-encoding") == "identity", code == "unsupported_encoding");
    }
    for media_type in [json, "application/json; charset=UTF-8", "application/vnd.x+json", "Application/JSON"]
    {
        let request =
            Request::post(CHAT).header("content-type", media_type).header("content-encoding", "identity");
        assert_eq!(reply(&env, request, "{}").await.error().2, "invalid_value", "{media_type}");
    }
}

#[tokio::test]
async fn every_answer_has_an_id_and_errors_repeat_it() {
    let (env, mut worker) = TestEnv::ready("").await;
    for path in ["/livez", "/v1/models", "/nowhere", "/v1/models/%ff"] {
        let answer = reply(&env, Request::get(path).header("x-request-id", "client-1/2"), "").await;
        assert_eq!(answer.header("x-request-id"), "client-1/2");
        if answer.status.is_client_error() {
            assert_eq!(answer.json()["error"]["request_id"], "client-1/2");
        }
    }
    let path = reply(&env, Request::get("/v1/models/%ff"), "").await;
    assert_eq!(path.error(), (400, "invalid_request_error".into(), "invalid_path".into()));
    let made = reply(&env, Request::get("/nowhere").header("x-request-id", "a b"), "").await;
    assert!(made.header("x-request-id").starts_with("req_"));
    assert_eq!(made.json()["error"]["request_id"], made.header("x-request-id"));

    let body = chat(json!({"stream": true})).to_string();
    let request =
        Request::post(CHAT).header("content-type", "application/json").header("x-request-id", "s-1");
    let begun = env.begin_request(request.body(body.into()).unwrap());
    let id = worker.generate().await.id;
    worker.admit(id).await;
    let failure = Failure { kind: FailureKind::Internal, param: None, message: "broke".into() };
    worker.events(id, vec![protocol::message::StreamEventKind::Failed(failure)]).await;
    let answer = Reply::read(soon("headers", begun).await.unwrap()).await;
    assert_eq!(answer.header("x-request-id"), "s-1");
    let error: Value = serde_json::from_str(answer.events().last().unwrap()).unwrap();
    assert_eq!(error["error"]["request_id"], "s-1");
}

#[tokio::test]
async fn web_pages_of_other_sites_are_refused_and_local_ones_may_read() {
    let (env, _worker) = TestEnv::ready("server: {allowed_origins: [\"https://chat.example\"]}\n").await;
    let foreign = reply(&env, Request::get("/v1/models").header("host", "evil.example:8080"), "").await;
    assert_eq!(foreign.error(), (403, "invalid_request_error".into(), "host_not_allowed".into()));
    for origin in ["https://evil.example", "null"] {
        // Without a content type, a browser would not ask first.
        let request = Request::post(CHAT).header("host", "127.0.0.1:8080").header("origin", origin);
        let answer = reply(&env, request, chat(json!({})).to_string()).await;
        assert_eq!(answer.error().2, "origin_not_allowed");
        assert_eq!(answer.header("access-control-allow-origin"), "");
        let request =
            Request::options(CHAT).header("origin", origin).header("access-control-request-method", "POST");
        assert_eq!(reply(&env, request, "").await.status.as_u16(), 403);
    }
    for origin in ["http://localhost:3000", "https://chat.example"] {
        let answer = reply(&env, Request::get("/v1/models").header("origin", origin), "").await;
        assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (200, origin));
        assert!(answer.header("vary").contains("origin"));
        let refused = reply(&env, Request::post(CHAT).header("origin", origin), "{").await;
        assert_eq!(refused.header("access-control-allow-origin"), origin, "errors can be read as well");
        let request = Request::options(CHAT)
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type");
        let preflight = reply(&env, request, "").await;
        assert_eq!(
            (preflight.status.as_u16(), preflight.header("access-control-allow-origin")),
            (204, origin)
        );
        assert!(preflight.header("access-control-allow-methods").contains("POST"));
        assert_eq!(preflight.header("access-control-allow-headers"), "authorization,content-type");
    }
}

#[tokio::test]
async fn only_an_administrator_sees_paths() {
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "an-admin-key-for-the-tests").unwrap();
    let settings = format!("server: {{admin_key_file: {}}}\n", key.path().display());
    let (env, mut worker) = TestEnv::ready(&settings).await;
    let message = format!("the blob /home/ann/store/blobs/ab is damaged: {}", "x".repeat(2000));
    let failure = Failure { kind: FailureKind::DamagedModel, param: None, message: message.clone() };
    worker.send(&Report::Damaged(failure)).await;
    until("the damage", || env.app.registry.models()[0].reason.is_some()).await;
    for (path, reason) in
        [("/v1/models", "/data/0/reason"), ("/v1/models/tiny", "/reason"), ("/readyz", "/models/0/reason")]
    {
        let shown = env.get(path).await.json().pointer(reason).unwrap().as_str().unwrap().to_owned();
        assert!(shown.starts_with("the blob <path> is damaged: xxx") && shown.len() < 600, "{shown}");
        let request = Request::get(path).header("authorization", "Bearer an-admin-key-for-the-tests");
        assert_eq!(reply(&env, request, "").await.json().pointer(reason).unwrap(), &json!(message));
    }
}
