//! Models and workers without processes, for the tests of this layer.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use protocol::{
    ids::RequestId,
    message::{Failure, FailureKind, Generate, ModelInfo, Prompt},
    stored::StoredModel,
};

use super::{model::Service, registry::ModelRegistry};
use crate::{
    config::BatchQueue,
    metrics::MetricRegistry,
    worker::{
        WorkerId, WorkerMetrics, WorkerState,
        link::Link,
        streams::{Progress, Stream},
    },
};

pub(super) fn worker(model: &str, number: usize) -> WorkerId {
    WorkerId { model: model.into(), number }
}

pub(super) fn failure(message: &str) -> Failure {
    Failure { kind: FailureKind::Internal, param: None, message: message.into() }
}

/// A registry with a model `m` that `workers` workers are about to serve.
pub(crate) fn registry(workers: usize) -> ModelRegistry {
    let registry = ModelRegistry::default();
    registry.write().add("m", workers);
    registry
}

/// A worker of the model `m` serves the one with this digest from now on, over the link that is returned.
pub(crate) fn serve(registry: &ModelRegistry, number: usize, digest: &str) -> Link {
    let service = service(digest, 1);
    let link = service.link.clone();
    registry.set_ready(&worker("m", number), service);
    link
}

/// A worker of the model `m` has exited.
pub(crate) fn exit(registry: &ModelRegistry, number: usize) {
    registry.set_state(&worker("m", number), WorkerState::Exited, None);
}

pub(super) fn info(digest: &str) -> ModelInfo {
    ModelInfo {
        name: "its own name".into(),
        digest: digest.into(),
        architecture: "llama".into(),
        context_length: 64,
        vocab_size: 10,
        weight_bytes: 1,
        load_micros: 2,
        tokenizer_micros: 3,
        kv_bytes: 4,
        other_bytes: 5,
        draft_model: None,
        embedding_size: None,
    }
}

/// A stored model whose weights take `weight_bytes` bytes.
pub(super) fn stored(name: &str, weight_bytes: u64) -> StoredModel {
    StoredModel {
        name: Some(name.to_owned()),
        digest: "d".into(),
        architecture: None,
        base: None,
        size: weight_bytes,
        weight_bytes,
        kv_token_values: 1024,
        context_length: Some(4096),
        embeds: false,
        has_adapters: false,
        imported_at: 0,
        defect: None,
    }
}

/// What a worker of a model with this digest offers, over a link that leads nowhere.
pub(super) fn service(digest: &str, pid: u32) -> Service {
    let settings = BatchQueue { max_batch_size: 8, flush_interval: Duration::ZERO };
    let metrics = WorkerMetrics::register(&mut MetricRegistry::new());
    Service { link: Link::new(settings, metrics.streams("m")), info: info(digest), pid }
}

/// Opens streams on the link, which are live until they are dropped.
pub(super) fn open(link: &Link, count: u64) -> Vec<Stream> {
    let generate = |id| Generate::new(RequestId(id), Prompt::Text("x".into()), 1);
    (0..count).map(|id| link.open(generate(id), Progress::new(Instant::now())).unwrap()).collect()
}
