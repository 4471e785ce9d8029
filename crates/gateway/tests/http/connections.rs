//! Time limits and places of connections, and what an early answer does to one.

use protocol::{
    ids::RequestId,
    message::{FinishReason, Submission},
};
use serde_json::json;
use tokio::{io::AsyncReadExt, net::TcpStream};

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
    let mut http2 = Wire::open(address).await;
    http2.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert_eq!(http2.rest().await, "");
}

/// A client that has asked for a stream and read nothing of it, and the worker's name for that.
async fn stalled(address: std::net::SocketAddr, worker: &mut FakeWorker) -> (Wire, RequestId) {
    let mut client = Wire::open(address).await;
    let body = chat(json!({"stream": true})).to_string();
    client.send("POST", CHAT, "content-type: application/json\r\n", body.as_bytes()).await;
    let id = worker.generate().await.id;
    worker.admit(id).await;
    (client, id)
}

/// Sends `text` as long as there is credit, until the stream is cancelled. Returns the number of chunks.
async fn send_until_cancelled(worker: &mut FakeWorker, id: RequestId, credit: u32, text: &str) -> usize {
    let (mut credit, mut sent) = (credit, 0);
    loop {
        for _ in 0..credit {
            worker.events(id, vec![chunk(text)]).await;
            sent += 1;
        }
        match worker.next().await {
            Submission::Credit { chunks, .. } => credit = chunks,
            Submission::Cancel(cancelled) => {
                assert_eq!(cancelled, id);
                return sent;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_stream_and_frees_its_place() {
    let settings = "server: {slow_consumer_timeout_ms: 500}\n\
                    stream_registry: {credit_chunks: 8, adaptive_limits: {max_streams: 1}}\n";
    let (env, mut worker) = TestEnv::ready(settings).await;
    let address = env.listen().await;
    let (stalled, id) = stalled(address, &mut worker).await;
    // It fills what the kernel and the gateway buffer, and then no more credit comes.
    send_until_cancelled(&mut worker, id, 8, &"x".repeat(100_000)).await;
    until("a free place", || env.app.admission.metrics().streams_open.get() == 0).await;
    assert_eq!(env.metric("kr_respond_slow_consumers_total").await, "1");
    let (_, response) = env.begin_stream(&mut worker).await;
    assert_eq!(response.status().as_u16(), 200);
    drop(stalled);
}

#[tokio::test]
async fn a_client_that_reads_on_too_late_sees_what_was_sent_and_why_it_ended() {
    let settings = "server: {slow_consumer_timeout_ms: 2000}\nstream_registry: {credit_chunks: 8}\n";
    let (env, mut worker) = TestEnv::ready(settings).await;
    let address = env.listen().await;
    let (mut late, id) = stalled(address, &mut worker).await;
    let text = "x".repeat(100_000);
    let sent = send_until_cancelled(&mut worker, id, 8, &text).await;
    // It has as much time as before, two seconds, for the rest.
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n0\r\n\r\n") {
        assert_ne!(soon("the rest", late.0.read_buf(&mut answer)).await.unwrap(), 0, "the answer is whole");
    }
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!(answer.matches("slow_consumer").count(), 1);
    assert!(!answer.contains("[DONE]") && !answer.contains("finish_reason\":\"stop"));
    let read = answer.matches("\"content\":\"xx").count();
    assert!(read > 0 && read <= sent, "{read} of {sent}");
    // And the connection serves on.
    late.send("GET", "/livez", "", b"").await;
    assert_eq!(late.answer().await.1, "ok\n");
    drop(env);
}

#[tokio::test]
async fn a_client_that_never_reads_on_is_disconnected() {
    let settings = "server: {slow_consumer_timeout_ms: 300}\nstream_registry: {credit_chunks: 8}\n";
    let (env, mut worker) = TestEnv::ready(settings).await;
    let address = env.listen().await;
    let (client, id) = stalled(address, &mut worker).await;
    send_until_cancelled(&mut worker, id, 8, &"x".repeat(100_000)).await;
    // A reset reaches it although it does not read.
    soon("a reset", async {
        while client.0.take_error().unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(env);
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
