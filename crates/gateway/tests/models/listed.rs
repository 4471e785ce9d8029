//! What the list of models says.

use axum::{
    body::Body,
    http::{Request, header},
};
use protocol::stored::StoredModel;
use serde_json::json;

use super::{
    KEY,
    demand::{ask, damaged, env, pairs, serve, states, stored},
    keyed,
    support::*,
};

#[tokio::test]
async fn what_is_stored_is_listed_with_what_clients_read() {
    let (env, _tiny) = TestEnv::ready("").await;
    let unnamed = StoredModel { name: None, ..stored("unnamed") };
    env.store(&[damaged("bad"), stored("org/good/load"), stored("tiny"), unnamed.clone()]);
    let list = env.get("/v1/models").await.json();
    let [tiny, bad, good] = &list["data"].as_array().unwrap()[..] else { panic!("{list}") };
    assert_eq!((&tiny["state"], &tiny["created"]), (&json!("ready"), &json!(1_800_000_000)));
    assert_eq!(
        (&tiny["max_model_len"], &tiny["size_bytes"]),
        (&json!(128), &json!(7000)),
        "its worker knows best"
    );
    assert_eq!(
        (&bad["id"], &bad["state"], &bad["reason"]),
        (&json!("bad"), &json!("failed"), &json!("a file in <path> is damaged"))
    );
    let digest = stored("org/good/load").digest;
    let expected = json!({
        "id": "org/good/load", "object": "model", "created": 1_800_000_000, "owned_by": "kr-serve",
        "root": "org/good/load", "max_model_len": 256, "state": "stored", "reason": null, "workers": 0,
        "ready_workers": 0, "parent": null, "size_bytes": 4000, "context_length": 256, "architecture": "llama",
        "task": "generate", "embedding_length": null, "draft_model": null, "digest": digest,
    });
    assert_eq!(*good, expected);
    for id in ["org/good/load".to_owned(), digest.clone(), format!("sha256:{digest}")] {
        assert_eq!(env.get(&format!("/v1/models/{id}")).await.json(), expected, "{id}");
    }
    assert_eq!(env.get(&format!("/v1/models/{}", unnamed.digest)).await.json()["id"], unnamed.digest);
    assert_eq!(env.get("/v1/models/tiny").await.json()["state"], "ready");
    assert_eq!(env.get("/v1/models/other/load").await.status.as_u16(), 405, "no model has this name");
    let unknown = env.get("/v1/models/other").await;
    assert_eq!(unknown.error(), (404, "invalid_request_error".into(), "model_not_found".into()));
    assert!(
        unknown.text.contains("`tiny`, `org/good/load`") && !unknown.text.contains("bad"),
        "{}",
        unknown.text
    );
    assert_eq!(env.listings(), 1, "the list is kept for a while");

    let refused = env.post(CHAT, &ask("bad")).await;
    assert_eq!(refused.error(), (422, "server_error".into(), "model_damaged".into()));
    assert_eq!(env.app.registry.models().len(), 1, "it was not even tried");
}

#[tokio::test]
async fn where_nothing_is_loaded_on_demand_only_an_administrator_sees_what_is_stored() {
    let (settings, _file) = keyed("models:\n  on_demand: off\n");
    let (env, _tiny) = env(&settings, &["other"]).await;
    let refused = env.post(CHAT, &ask("other")).await;
    assert_eq!(refused.error(), (404, "invalid_request_error".into(), "model_not_found".into()));
    for path in ["/v1/models", "/v1/models/other"] {
        let open = env.get(path).await;
        assert!(!open.text.contains("\"other\""), "{}", open.text);
        let request = Request::get(path).header(header::AUTHORIZATION, format!("Bearer {KEY}"));
        let shown = Reply::read(env.send(request.body(Body::empty()).unwrap()).await).await;
        assert!(shown.text.contains("\"id\":\"other\""), "{}", shown.text);
    }
}

#[tokio::test]
async fn a_store_that_can_not_be_read_breaks_nothing_else() {
    for printed in [None, Some("[1]"), Some("not JSON")] {
        let (env, mut tiny) = TestEnv::ready("").await;
        env.break_store(printed);
        assert_eq!(states(&env).await, pairs(&[("tiny", "ready")]));
        let refused = env.post(CHAT, &ask("other")).await;
        assert_eq!(refused.error(), (503, "server_error".into(), "store_unreadable".into()));
        assert_eq!(refused.header("retry-after"), "2");
        let begun = env.begin(CHAT, &ask("tiny"));
        serve(&mut tiny).await;
        assert_eq!(soon("an answer", begun).await.unwrap().status().as_u16(), 200);
        assert_eq!(env.listings(), 1, "it is not asked for again at once");
    }
}
