//! Which of a model's workers gets a request.

use axum::response::Response;
use protocol::{ids::RequestId, message::FinishReason};
use serde_json::json;
use tokio::task::JoinHandle;

use super::support::*;

/// A model's two workers.
struct Pair {
    env: TestEnv,
    workers: [FakeWorker; 2],
}

/// A request that a worker has begun to answer.
struct Running {
    worker: usize,
    id: RequestId,
    answer: JoinHandle<Response>,
}

impl Pair {
    async fn start() -> Self {
        let (env, first) = TestEnv::ready("workers:\n  count: 2\n  restart_backoff_ms: 1\n").await;
        let second = env.next_ready_worker().await;
        Self { workers: [first, second], env }
    }

    /// Asks `content`, of which one worker sends the first token.
    async fn begin(&mut self, content: &str) -> Running {
        let body = json!({"model": "tiny", "messages": [{"role": "user", "content": content}]});
        let answer = self.env.begin(CHAT, &body);
        let [first, second] = &mut self.workers;
        let (worker, id) = tokio::select! {
            generate = first.generate() => (0, generate.id),
            generate = second.generate() => (1, generate.id),
        };
        self.workers[worker].admit(id).await;
        self.workers[worker].events(id, vec![chunk("x")]).await;
        let prompts_done =
            || self.env.app.registry.workers().iter().any(|it| (1..1000).contains(&it.outstanding_tokens));
        until("the first token", prompts_done).await;
        Running { worker, id, answer }
    }

    async fn end(&mut self, running: Running) {
        let Running { worker, id, answer } = running;
        self.workers[worker].events(id, vec![finished(FinishReason::Stop)]).await;
        assert_eq!(soon("an answer", answer).await.unwrap().status().as_u16(), 200);
        let idle = || self.env.app.registry.workers().iter().all(|it| it.outstanding_tokens == 0);
        until("all is given back", idle).await;
    }

    /// The worker that gets `content`.
    async fn ask(&mut self, content: &str) -> usize {
        let running = self.begin(content).await;
        let worker = running.worker;
        self.end(running).await;
        worker
    }
}

#[tokio::test]
async fn prompts_that_begin_alike_share_a_worker_as_far_as_its_work_allows() {
    let mut pair = Pair::start().await;
    let long = "a long document ".repeat(400);
    let (short_home, long_home) = (pair.ask("hello").await, pair.ask(&long).await);
    for question in ["one", "two", "three"] {
        assert_eq!(pair.ask("hello").await, short_home);
        assert_eq!(pair.ask(&format!("{long}{question}")).await, long_home);
    }
    // An answer of some hundred tokens is more than a short prompt is worth, and less than a long one.
    let running = pair.begin("hello").await;
    assert_eq!(pair.begin("hello").await.worker, 1 - running.worker);
    let mut pair = Pair::start().await;
    let running = pair.begin(&long).await;
    assert_eq!(pair.begin(&long).await.worker, running.worker);
}

#[tokio::test]
async fn what_a_dead_worker_had_goes_to_the_other_and_comes_back() {
    let mut pair = Pair::start().await;
    let home = pair.ask("hello").await;
    let Pair { env, workers: [first, second] } = pair;
    let (dead, other) = if home == 0 { (first, second) } else { (second, first) };
    dead.die();
    until("the death is seen", || env.app.registry.links().len() == 1).await;
    let mut other = other;
    let begun =
        env.begin(CHAT, &json!({"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}));
    let id = other.generate().await.id;
    other.admit(id).await;
    other.events(id, vec![finished(FinishReason::Stop)]).await;
    assert_eq!(soon("an answer", begun).await.unwrap().status().as_u16(), 200);
    let back = env.next_ready_worker().await;
    let workers = if home == 0 { [back, other] } else { [other, back] };
    assert_eq!(Pair { env, workers }.ask("hello").await, home);
}
