//! Models and workers without processes, for the tests of this layer.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use protocol::{
    ids::RequestId,
    message::{Failure, FailureKind, Generate, ModelInfo, Prompt},
};

use super::model::Service;
use crate::{
    config::BatchQueue,
    metrics::MetricRegistry,
    worker::{WorkerId, WorkerMetrics, link::Link, streams::Stream},
};

pub(super) fn worker(model: &str, number: usize) -> WorkerId {
    WorkerId { model: model.into(), number }
}

pub(super) fn failure(message: &str) -> Failure {
    Failure { kind: FailureKind::Internal, param: None, message: message.into() }
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
    (0..count).map(|id| link.open(generate(id), Instant::now()).unwrap()).collect()
}
