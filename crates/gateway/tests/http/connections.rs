//! Time limits and places of connections, and what an early answer does to one.

use protocol::message::FinishReason;
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::*;

/// The limits of these tests are short, and passing them is what is waited for.
fn with(server: &str) -> TestEnv {
    TestEnv::start(&format!("server: {{{server}}}\n"))
}

fn error(body: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}"));
    assert!(json["error"]["message"].as_str().is_some_and(|it| !it.is_empty()), "{body}");
    assert!(json["error"]["request_id"].as_str().is_some_and(|it| !it.is_empty()), "{body}");
    json["error"]["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_header_that_never_ends_is_a_408() {
    let env = with("header_timeout_ms: 300");
    let address = env.listen().await;
    for begun in ["P", "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-"] {
        let mut client = Wire::open(address).await;
        client.write(begun).await;
        let (head, body) = client.answer().await;
        assert!(head.starts_with("http/1.1 408 ") && head.contains("connection: close"), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        assert_eq!(error(&body), "header_timeout");
        assert_eq!(client.rest().await, "");
    }
}

#[tokio::test]
async fn a_body_that_never_ends_is_a_408() {
    let env = with("body_timeout_ms: 300");
    let address = env.listen().await;
    let mut client = Wire::open(address).await;
    client
        .write(format!(
            "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
        ))
        .await;
    let (head, body) = client.answer().await;
    assert!(head.starts_with("http/1.1 408 ") && head.contains("connection: close"), "{head}");
    assert_eq!(error(&body), "body_timeout");
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed() {
    let env = with("idle_timeout_ms: 300");
    let address = env.listen().await;
    let mut silent = Wire::open(address).await;
    assert_eq!(silent.rest().await, "");
    let mut used = Wire::open(address).await;
    used.send("GET", "/livez", "", b"").await;
    assert_eq!(used.answer().await.1, "ok\n");
    assert_eq!(used.rest().await, "");
}

#[tokio::test]
async fn silent_connections_make_room_for_others() {
    // None of them is closed because of the time.
    let env = with("max_connections: 3, header_timeout_ms: 3600000, idle_timeout_ms: 3600000");
    let address = env.listen().await;
    let mut silent = Vec::new();
    for begun in ["", "GET / HT", ""] {
        let mut client = Wire::open(address).await;
        client.write(begun).await;
        silent.push(client);
    }
    let mut others = Vec::new();
    for _ in 0..6 {
        let mut client = Wire::open(address).await;
        client.send("GET", "/livez", "", b"").await;
        assert_eq!(client.answer().await.1, "ok\n");
        others.push(client);
    }
    for mut client in silent {
        assert_eq!(client.rest().await, "");
    }
}

#[tokio::test]
async fn one_address_makes_room_for_itself() {
    let env = with("max_connections_per_address: 2, header_timeout_ms: 3600000, idle_timeout_ms: 3600000");
    let address = env.listen().await;
    let mut first = Wire::open(address).await;
    first.write("GET / HT").await;
    let mut others = Vec::new();
    for _ in 0..4 {
        let mut client = Wire::open(address).await;
        client.send("GET", "/livez", "", b"").await;
        assert_eq!(client.answer().await.1, "ok\n");
        others.push(client);
    }
    assert_eq!(first.rest().await, "");
    assert_eq!(others[0].rest().await, "");
}

#[tokio::test]
async fn bodies_that_do_not_come_make_room_when_nothing_else_does() {
    let env = with("max_connections: 2");
    let address = env.listen().await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut client = Wire::open(address).await;
        client
            .write(format!(
                "POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{{"
            ))
            .await;
        held.push(client);
    }
    let mut client = Wire::open(address).await;
    client.send("GET", "/v1/models", "", b"").await;
    assert!(client.answer().await.0.starts_with("http/1.1 200 "));
    for mut client in held.into_iter().take(2) {
        client.rest().await;
    }
}

#[tokio::test]
async fn health_checks_are_answered_when_all_connections_are_busy() {
    let (env, mut worker) = TestEnv::ready("server: {max_connections: 1}\n").await;
    let address = env.listen().await;
    let mut busy = Wire::open(address).await;
    let body = chat(json!({"stream": true})).to_string();
    busy.send("POST", CHAT, "content-type: application/json\r\n", body.as_bytes()).await;
    let id = worker.generate().await.id;
    worker.admit(id).await;
    assert!(busy.answer().await.0.starts_with("http/1.1 200 "));

    let mut health = Wire::open(address).await;
    health.send("GET", "/livez", "", b"").await;
    assert_eq!(health.answer().await.1, "ok\n");
    let mut another = Wire::open(address).await;
    another.send("GET", "/v1/models", "", b"").await;
    let (head, body) = another.answer().await;
    assert!(head.starts_with("http/1.1 503 ") && head.contains("retry-after: "), "{head}");
    assert_eq!(error(&body), "too_many_connections");

    worker.events(id, vec![chunk("x"), finished(FinishReason::Stop)]).await;
    drop(busy);
}

/// Requests that are answered before their body is read, and the status.
const EARLY: [(&str, &str, &str, u16); 6] = [
    ("POST", "/chat/completions", "content-type: application/json\r\n", 404),
    ("POST", "/v1/models", "content-type: application/json\r\n", 405),
    ("POST", CHAT, "content-type: text/plain\r\n", 415),
    ("POST", CHAT, "content-type: application/json\r\ncontent-encoding: gzip\r\n", 415),
    ("POST", CHAT, "content-type: application/json\r\norigin: https://evil.example\r\n", 403),
    ("POST", "/v1/models/x/load", "content-type: application/json\r\n", 403),
];

#[tokio::test]
async fn an_early_answer_leaves_the_connection_usable_or_says_that_it_ends() {
    let env = TestEnv::start("");
    let address = env.listen().await;
    for (method, path, headers, status) in EARLY {
        for length in [0, 1, 1000, 200 << 10, 300 << 10, 9 << 20] {
            let mut client = Wire::open(address).await;
            client.send(method, path, headers, &vec![b' '; length]).await;
            let (head, body) = client.answer().await;
            assert!(head.starts_with(&format!("http/1.1 {status} ")), "{path}: {head}");
            error(&body);
            if head.contains("connection: close") {
                assert!(length > 256 << 10, "{path} with {length} bytes");
                assert_eq!(client.rest().await, "");
            } else {
                client.send("GET", "/livez", "", b"").await;
                assert_eq!(client.answer().await.1, "ok\n", "{path} with {length} bytes");
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_sends_far_too_much_still_reads_its_413() {
    let env = TestEnv::start("");
    let address = env.listen().await;
    const SIZE: usize = 50 << 20;
    for framing in [format!("content-length: {SIZE}"), "transfer-encoding: chunked".into()] {
        let mut client = Wire::open(address).await;
        client
            .write(format!(
                "POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{framing}\r\n\r\n"
            ))
            .await;
        let part = vec![b' '; 1 << 20];
        for _ in 0..SIZE / part.len() {
            if framing.starts_with("transfer") {
                client.write(format!("{:x}\r\n", part.len())).await;
            }
            client.write(&part).await;
            if framing.starts_with("transfer") {
                client.write("\r\n").await;
            }
        }
        if framing.starts_with("transfer") {
            client.write("0\r\n\r\n").await;
        }
        let (head, body) = client.answer().await;
        assert!(head.starts_with("http/1.1 413 ") && head.contains("connection: close"), "{head}");
        assert_eq!(error(&body), "body_too_large");
        assert_eq!(client.rest().await, "");
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_is_answered_without_its_body() {
    let env = TestEnv::start("");
    let address = env.listen().await;
    let mut client = Wire::open(address).await;
    client
        .write(format!(
            "POST {CHAT} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-type: text/plain\r\n\
             content-length: 100\r\n\r\n"
        ))
        .await;
    let (head, body) = client.answer().await;
    assert!(head.starts_with("http/1.1 415 ") && head.contains("connection: close"), "{head}");
    assert_eq!(error(&body), "unsupported_media_type");
}

#[tokio::test]
async fn what_is_not_http_is_answered_in_json() {
    let env = TestEnv::start("");
    let address = env.listen().await;
    let long = "x".repeat(1 << 20);
    for (bytes, status) in [
        ("nonsense\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n".into(), 400),
        (format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n"), 431),
        (format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", &long[..70_000]), 414),
    ] {
        let mut client = Wire::open(address).await;
        client.write(bytes).await;
        let (head, body) = client.answer().await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
        assert!(head.contains("content-type: application/json") && head.contains("x-request-id: "), "{head}");
        assert_eq!(error(&body), "malformed_request");
        assert_eq!(client.rest().await, "");
    }
    let lines = "x: y\r\n".repeat(101);
    let mut client = Wire::open(address).await;
    client.write(format!("GET /livez HTTP/1.1\r\n{lines}\r\n")).await;
    let (head, body) = client.answer().await;
    assert!(head.starts_with("http/1.1 431 "), "{head}");
    assert_eq!(error(&body), "malformed_request");
    let mut http2 = Wire::open(address).await;
    http2.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert_eq!(http2.rest().await, "");
}

#[tokio::test]
async fn a_header_may_be_as_large_as_the_settings_say() {
    let env = with("max_header_bytes: 4096, max_headers: 16");
    let address = env.listen().await;
    let line = |length: usize| format!("x: {}\r\n", "y".repeat(length));
    for (lines, status) in [
        (line(3000), 200),
        (line(5000), 431),
        (line(2100).repeat(2), 431),
        (line(1).repeat(15), 200),
        (line(1).repeat(16), 431),
    ] {
        let mut client = Wire::open(address).await;
        client.write(format!("GET /livez HTTP/1.1\r\nhost: x\r\n{lines}\r\n")).await;
        let (head, _) = client.answer().await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{} bytes: {head}", lines.len());
        // The second request of a connection is measured as the first was.
        if status == 200 {
            client.write(format!("GET /livez HTTP/1.1\r\nhost: x\r\n{}\r\n", line(5000))).await;
            assert!(client.answer().await.0.starts_with("http/1.1 431 "));
            assert_eq!(client.rest().await, "");
        }
    }
    let mut client = Wire::open(address).await;
    client.write(format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "y".repeat(5000))).await;
    assert!(client.answer().await.0.starts_with("http/1.1 414 "));
}

/// As many as descriptors allow: each takes one on either side.
#[tokio::test]
async fn half_open_connections_are_closed_in_time_and_others_served_meanwhile() {
    const MOST: usize = 2000;
    let (env, mut worker) =
        TestEnv::ready("server: {header_timeout_ms: 2000, idle_timeout_ms: 2000}\n").await;
    let address = env.listen().await;
    let began = std::time::Instant::now();
    let mut half_open = Vec::new();
    while half_open.len() < MOST {
        let Ok(client) = TcpStream::connect(address).await else { break };
        let mut client = Wire(client);
        // Some say nothing at all, others a part of a header.
        if half_open.len() % 4 != 0 {
            client.write("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-").await;
        }
        half_open.push(client);
    }
    eprintln!("{} half-open connections after {:?}", half_open.len(), began.elapsed());
    assert!(half_open.len() >= 200);
    for _ in 0..10 {
        let mut client = Wire::open(address).await;
        let body = chat(json!({})).to_string();
        client.send("POST", CHAT, "content-type: application/json\r\n", body.as_bytes()).await;
        let id = worker.generate().await.id;
        worker.admit(id).await;
        worker.events(id, vec![chunk("x"), finished(FinishReason::Stop)]).await;
        assert!(client.answer().await.0.starts_with("http/1.1 200 "));
    }
    for (index, mut client) in half_open.into_iter().enumerate() {
        let answer = client.rest().await;
        let expected = if index % 4 == 0 { "" } else { "HTTP/1.1 408 " };
        assert!(
            answer.starts_with(expected) && answer.is_empty() == expected.is_empty(),
            "{index}: {answer}"
        );
    }
}
