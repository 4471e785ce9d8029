//! Clients that leave at any moment.

use axum::{body::Body, http::Request};
use http_body_util::BodyExt;
use protocol::message::FinishReason;
use serde_json::json;
use test_support::worker::Generator;
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::support::*;

const PLACES: usize = 20;

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Reads its answer, and leaves after it had `turns`. True if it was answered before.
async fn client(routes: axum::Router, request: Request<Body>, turns: u64) -> bool {
    let reads = async {
        let mut body = routes.oneshot(request).await.unwrap().into_body();
        while body.frame().await.is_some() {}
    };
    let leaves = async {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = reads => true,
        () = leaves => false,
    }
}

#[tokio::test]
async fn clients_that_leave_at_any_moment_leave_nothing_behind() {
    const REQUESTS: u64 = 10_000;
    const AT_ONCE: usize = 60;
    let settings = format!(
        "stream_registry: {{credit_chunks: 4, adaptive_limits: {{min_streams: {PLACES}, max_streams: {PLACES}}}}}\n\
         batch_queue: {{max_batch_size: 7}}\n"
    );
    let (env, worker) = TestEnv::ready(&settings).await;
    let routes = env.routes();
    let mut generator = Generator::new(worker, "x");
    let (mut random, mut clients, mut answered) = (Random(7), JoinSet::new(), 0);
    for _ in 0..REQUESTS {
        let body = json!({"max_tokens": 1 + random.below(20), "stream": random.below(2) == 0});
        let turns = random.below(50);
        clients.spawn(client(routes.clone(), post(CHAT, &chat(body)), turns));
        while clients.len() >= AT_ONCE {
            generator.step().await;
            tokio::task::yield_now().await;
            while let Some(ended) = clients.try_join_next() {
                answered += u64::from(ended.unwrap());
            }
        }
    }
    soon("the end of all", async {
        while !clients.is_empty() || generator.live() > 0 {
            generator.step().await;
            tokio::task::yield_now().await;
            while let Some(ended) = clients.try_join_next() {
                answered += u64::from(ended.unwrap());
            }
        }
    })
    .await;
    // A client that left at the end may have queued a cancel. All tasks have this thread, and shipping it takes the
    // link's a few turns.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    generator.step().await;
    let cancelled = generator.cancelled as u64;
    eprintln!("{answered} of {REQUESTS} answered, {cancelled} cancelled in the worker");
    assert!(answered > REQUESTS / 20 && cancelled > REQUESTS / 20, "clients left at all moments");

    let admission = env.app.admission.metrics();
    assert_eq!((admission.streams_open.get(), admission.queue_length.get()), (0, 0));
    assert_eq!(env.app.registry.workers()[0].streams, 0);
    // Nothing was queued for the worker that it has not got: the next thing it hears of is the next request.
    let mut worker = generator.into_worker();
    assert_eq!(worker.arrived().await, []);
    let mut streams = Vec::new();
    for _ in 0..PLACES {
        streams.push(env.begin_stream(&mut worker).await);
    }
    assert_eq!(admission.streams_open.get(), PLACES as i64, "every place can be taken");
    for (id, response) in streams {
        worker.events(id, vec![chunk("x"), finished(FinishReason::Stop)]).await;
        assert_eq!(Reply::read(response).await.events().last().unwrap(), "[DONE]");
    }
}
