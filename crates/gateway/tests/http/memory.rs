//! What bodies cost: memory and time.

use std::{convert::Infallible, sync::mpsc};

use axum::{
    body::{Body, Bytes},
    http::Request,
};
use futures_util::{StreamExt, stream};
use protocol::message::FinishReason;
use serde_json::json;

use crate::support::*;

/// A request whose body has begun with `bytes` and does not end.
fn unfinished(bytes: usize) -> Request<Body> {
    let first = stream::iter([Ok::<_, Infallible>(Bytes::from(vec![b' '; bytes]))]);
    let body = Body::from_stream(first.chain(stream::pending()));
    Request::post(CHAT).header("content-type", "application/json").body(body).unwrap()
}

#[tokio::test]
async fn unfinished_bodies_and_waiting_requests_share_a_budget() {
    let settings = "server: {max_body_bytes: 4096, request_memory_bytes: 24576}\n\
                    stream_registry: {adaptive_limits: {max_streams: 1}}\n";
    let (env, mut worker) = TestEnv::ready(settings).await;
    let over = |reply: &Reply| {
        assert_eq!(reply.error(), (429, "rate_limit_error".into(), "out_of_memory_budget".into()));
        assert_eq!((reply.header("retry-after"), reply.header("retry-after-ms")), ("1", "1000"));
    };
    // Bodies that do not end.
    let bodies: Vec<_> = (0..6).map(|_| env.begin_request(unfinished(4000))).collect();
    // Each is polled as often as this task yields.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(bodies.iter().all(|body| !body.is_finished()));
    over(&env.post(CHAT, &chat(json!({"user": "x".repeat(2000)}))).await);
    for body in bodies {
        body.abort();
        assert!(body.await.unwrap_err().is_cancelled());
    }

    // Requests that wait for a permit.
    let running = env.begin(CHAT, &chat(json!({})));
    let first = worker.generate().await.id;
    let long = chat(json!({"messages": [{"role": "user", "content": "x".repeat(3900)}]}));
    let mut waiting = Vec::new();
    let refused = loop {
        let mut begun = env.begin(CHAT, &long);
        let queued = waiting.len() as i64 + 1;
        until("an answer or a place in the queue", || {
            begun.is_finished() || env.app.admission.metrics().queue_length.get() == queued
        })
        .await;
        if begun.is_finished() {
            break Reply::read((&mut begun).await.unwrap()).await;
        }
        waiting.push(begun);
        assert!(waiting.len() < 10);
    };
    over(&refused);
    assert!(!waiting.is_empty());
    // What was begun goes on as ever, and gives its memory back.
    worker.admit(first).await;
    worker.events(first, vec![finished(FinishReason::Stop)]).await;
    for _ in &waiting {
        let id = worker.generate().await.id;
        worker.admit(id).await;
        worker.events(id, vec![finished(FinishReason::Stop)]).await;
    }
    for begun in waiting.into_iter().chain([running]) {
        assert_eq!(soon("an answer", begun).await.unwrap().status().as_u16(), 200);
    }
    let again = env.begin(CHAT, &long);
    let id = worker.generate().await.id;
    worker.admit(id).await;
    worker.events(id, vec![finished(FinishReason::Stop)]).await;
    assert_eq!(soon("an answer", again).await.unwrap().status().as_u16(), 200);
}

#[test]
fn a_large_body_is_parsed_beside_the_threads_that_answer_others() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let (env, mut worker) = TestEnv::ready("").await;
        // The one thread for such work is taken.
        let (release, taken) = mpsc::channel::<()>();
        let (started, starts) = tokio::sync::oneshot::channel();
        let busy = tokio::task::spawn_blocking(move || {
            let _ = started.send(());
            let _ = taken.recv();
        });
        starts.await.unwrap();
        let body = chat(json!({"messages": [{"role": "user", "content": "x".repeat(1 << 20)}]}));
        let large = env.begin(CHAT, &body);
        for _ in 0..100 {
            assert_eq!(env.get("/livez").await.status.as_u16(), 200);
        }
        assert!(!large.is_finished());
        assert_eq!(
            env.get("/readyz").await.json()["workers"][0]["streams"],
            0,
            "it was parsed on this thread"
        );
        release.send(()).unwrap();
        busy.await.unwrap();
        let id = worker.generate().await.id;
        worker.admit(id).await;
        worker.events(id, vec![finished(FinishReason::Stop)]).await;
        assert_eq!(soon("an answer", large).await.unwrap().status().as_u16(), 200);
    });
}
