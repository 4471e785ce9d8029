//! Clients that do not read their answer.

use protocol::{ids::RequestId, message::Submission};
use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::support::*;

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
    assert_eq!(env.metric("kr_slow_consumers_total").await, "1");
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
