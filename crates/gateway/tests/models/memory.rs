//! Models share the memory that workers may use.

use protocol::{
    message::{FinishReason, ModelInfo, Report, Submission},
    stored::StoredModel,
};
use serde_json::{Value, json};

use super::{demand, keyed, load, reply, support::*};

const GIB: u64 = 1 << 30;

/// What every worker has beside weights, keys and values.
const OTHER: u64 = 256 << 20;

const SETTINGS: &str = "memory:\n  max_bytes: 10GiB\nmodels:\n  wait_timeout_ms: 20\n";

/// Models of these names and sizes in GiB are stored; `tiny` serves, and is next to nothing.
async fn env(settings: &str, models: &[(&str, u64)]) -> (TestEnv, FakeWorker) {
    let (env, tiny) = TestEnv::ready(settings).await;
    let stored = |(name, size): &(&str, u64)| StoredModel {
        weight_bytes: size * GIB,
        kv_token_values: 1 << 15,
        ..demand::stored(name)
    };
    env.store(&models.iter().map(stored).collect::<Vec<_>>());
    (env, tiny)
}

fn ask(model: &str) -> Value {
    chat(json!({"model": model}))
}

/// The next worker serves, with so many GiB of weights and of keys and values.
async fn ready(env: &TestEnv, model: &str, weights: u64, kv: u64) -> FakeWorker {
    let mut worker = env.next_worker().await;
    assert_eq!(worker.model, model);
    let info =
        ModelInfo { weight_bytes: weights * GIB, kv_bytes: kv * GIB, other_bytes: OTHER, ..worker.info() };
    worker.send(&Report::Ready(info)).await;
    worker
}

#[tokio::test]
async fn an_idle_model_makes_room_in_memory_and_what_never_fits_is_refused_at_once() {
    let (env, _tiny) = env(SETTINGS, &[("a", 6), ("b", 5), ("c", 10), ("d", 1)]).await;
    let begun = env.begin(CHAT, &ask("a"));
    let mut a = ready(&env, "a", 6, 2).await;
    let share = a.hello.options.memory;
    assert_eq!((share.max_bytes, share.workers, share.leaves_room), (10 * GIB, 1, true));
    assert!(share.left_bytes < 10 * GIB && share.left_bytes > 9 * GIB, "`tiny` has something: {share:?}");
    demand::serve(&mut a).await;
    assert_eq!(soon("an answer", begun).await.unwrap().status().as_u16(), 200);

    let refused = env.post(CHAT, &ask("c")).await;
    assert_eq!(refused.error(), (422, "server_error".into(), "model_too_large".into()));
    assert!(refused.text.contains("10.0 GiB for its weights") && refused.text.contains("memory.max_bytes"));
    assert_eq!(env.app.registry.models().len(), 2, "nothing was unloaded for it");

    let begun = env.begin(CHAT, &ask("d"));
    let mut d = ready(&env, "d", 1, 0).await;
    assert!(d.hello.options.memory.left_bytes < 2 * GIB, "beside `a`");
    demand::serve(&mut d).await;
    assert_eq!(soon("an answer", begun).await.unwrap().status().as_u16(), 200);

    let begun = env.begin(CHAT, &ask("b"));
    while a.next().await != Submission::Drain {}
    a.die();
    let mut b = ready(&env, "b", 5, 2).await;
    assert!(b.hello.options.memory.left_bytes > 8 * GIB, "beside `d` alone");
    demand::serve(&mut b).await;
    assert_eq!(soon("an answer", begun).await.unwrap().status().as_u16(), 200);
    assert_eq!(env.metric("kr_demand_unloads_total{reason=\"room\"}").await, "1");
}

#[tokio::test]
async fn a_model_waits_for_the_memory_of_those_in_use_and_nothing_leaves_in_vain() {
    let (env, _tiny) = env(SETTINGS, &[("a", 6), ("b", 5), ("d", 1)]).await;
    let begun = env.begin(CHAT, &ask("d"));
    let mut d = ready(&env, "d", 1, 0).await;
    demand::serve(&mut d).await;
    assert_eq!(soon("an answer", begun).await.unwrap().status().as_u16(), 200);
    let running = env.begin(CHAT, &ask("a"));
    let mut a = ready(&env, "a", 6, 2).await;
    let id = a.generate().await.id;
    let refused = env.post(CHAT, &ask("b")).await;
    assert_eq!(refused.error(), (503, "server_error".into(), "no_room".into()));
    assert!(
        refused.text.contains("no memory for the model `b`") && refused.text.contains("memory.max_bytes")
    );
    assert_eq!(env.app.registry.models().len(), 3, "`d` alone would not have been enough");
    a.admit(id).await;
    a.events(id, vec![finished(FinishReason::Stop)]).await;
    assert_eq!(soon("an answer", running).await.unwrap().status().as_u16(), 200);
}

#[tokio::test]
async fn an_administrator_is_told_what_has_the_memory() {
    let (settings, _file) = keyed(SETTINGS);
    let (env, _tiny) = env(&settings, &[("a", 6), ("b", 5)]).await;
    let begun = super::ask(&env, "a/load", Value::Null);
    let _a = ready(&env, "a", 6, 2).await;
    assert_eq!(reply(begun).await.status.as_u16(), 200);
    let refused = reply(super::ask(&env, "b/load", Value::Null)).await;
    assert_eq!(refused.error(), (409, "invalid_request_error".into(), "insufficient_memory".into()));
    for part in ["beside `a` (8.2 GiB)", "5.0 GiB for its weights", "1.7 GiB are left", "10.0 GiB"] {
        assert!(refused.text.contains(part), "{part}: {}", refused.text);
    }
    // One of which the store says nothing gets what is left.
    let c = load(&env, "c").await;
    assert!(c.hello.options.memory.left_bytes < 2 * GIB);
}
