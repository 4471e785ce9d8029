#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures_util::FutureExt;
use protocol::message::{Prompt, Sampling};

use super::*;
use crate::{
    config::StreamRegistry,
    fleet::RouteError,
    metrics::MetricRegistry,
    serve::admission::{AdmissionMetrics, Permit},
};

/// A dispatcher over no models, and the only place that a model `x` would have.
fn full() -> (Dispatcher, Permit) {
    let settings = StreamRegistry {
        min_streams: 1,
        max_streams: 1,
        max_waiting: 8,
        wait_timeout: Duration::from_secs(30),
        credit_chunks: 8,
    };
    let metrics = AdmissionMetrics::register(&mut MetricRegistry::new());
    let admission = Admission::new(settings, metrics);
    let registry = Arc::new(ModelRegistry::default());
    let permit = admission.admit("x").now_or_never().unwrap().unwrap();
    let limits = OpenLimits { credit_chunks: 8, first_wait: Duration::ZERO, recovery_wait: Duration::ZERO };
    let metrics = ServeMetrics::register(&mut MetricRegistry::new());
    (Dispatcher::new(admission, registry, limits, metrics), permit)
}

fn ask(dispatcher: &Dispatcher, model: &str) -> Option<ServeError> {
    let request = GenerateRequest {
        model: model.into(),
        prompt: Prompt::Text("x".into()),
        sampling: Sampling::default(),
        max_tokens: None,
        stop: Vec::new(),
        ignore_eos: false,
    };
    dispatcher.generate(request, Instant::now()).now_or_never().map(Result::unwrap_err)
}

#[tokio::test]
async fn nobody_waits_for_a_model_that_can_not_be_reached() {
    let (dispatcher, _permit) = full();
    let unknown = RouteError::UnknownModel { model: "x".into(), served: "no model".into() };
    assert_eq!(ask(&dispatcher, "x"), Some(ServeError::Unroutable(unknown)));
}
