//! Settings that change while the gateway serves.

use axum::http::Request;
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn what_can_change_holds_for_the_next_request() {
    let (mut env, _worker) = TestEnv::ready("server: {port: 1}\n").await;
    let address = env.listen().await;
    let large = chat(json!({"temperature": 3, "user": "x".repeat(3000)}));
    assert_eq!(env.post(CHAT, &large).await.error().2, "invalid_value");
    let foreign = async |env: &TestEnv| {
        let request = Request::get("/v1/models").header("host", "a.example").body("".into()).unwrap();
        env.send(request).await.status().as_u16()
    };
    assert_eq!(foreign(&env).await, 403);
    let mut before = Wire::open(address).await;
    before.send("GET", "/livez", "", b"").await;
    assert_eq!(before.answer().await.1, "ok\n");
    let _place = env.app.admission.admit("tiny").await.unwrap();

    let changes = env
        .reload(
            "server: {port: 2, max_body_bytes: 2048, allowed_hosts: [a.example], max_header_bytes: 4096}\n\
             stream_registry: {max_waiting: 0, adaptive_limits: {max_streams: 1}}\nmodels: {max_loaded: 1}\n",
        )
        .unwrap();
    // Those that are named, and `min_streams`, which can't be more than `max_streams`.
    assert_eq!(changes.live.len(), 7, "{changes:?}");
    assert_eq!(changes.after_restart.len(), 1, "{changes:?}");
    assert_eq!(changes.after_restart[0].key, "server.port");
    assert_eq!(
        env.post(CHAT, &large).await.error(),
        (413, "invalid_request_error".into(), "body_too_large".into())
    );
    assert_eq!(foreign(&env).await, 200);
    assert_eq!(env.metric("kr_admit_limit{model=\"tiny\"}").await, "1");
    let full = env.post(CHAT, &chat(json!({}))).await.error();
    assert_eq!(full, (429, "rate_limit_error".into(), "queue_full".into()), "its only place is taken");

    // A connection keeps the limits with which it began.
    let long = format!("x: {}\r\n", "y".repeat(5000));
    before.send("GET", "/livez", &long, b"").await;
    assert_eq!(before.answer().await.1, "ok\n");
    let mut after = Wire::open(address).await;
    after.send("GET", "/livez", &long, b"").await;
    assert!(after.answer().await.0.starts_with("http/1.1 431 "));
}

#[tokio::test]
async fn a_mistake_changes_nothing() {
    let (mut env, _worker) = TestEnv::ready("").await;
    let error = env.reload("server:\n  max_body_bytes: 2048\n  prot: 1\n").unwrap_err().to_string();
    assert!(error.starts_with("test.yaml:3: `server.prot`"), "{error}");
    let large = chat(json!({"temperature": 3, "user": "x".repeat(3000)}));
    assert_eq!(env.post(CHAT, &large).await.error().2, "invalid_value");
    assert_eq!(env.reload("").unwrap(), Default::default());
}
