#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;
use crate::{
    config::{RateLimits, StreamRegistry},
    fleet::{RouteError, fixtures},
    metrics::MetricRegistry,
    serve::{
        admission::{AdmissionMetrics, Permit},
        request::plain,
    },
};
use futures_util::FutureExt;

/// A dispatcher over no models, and the only place that a model `x` would have.
fn full() -> (Dispatcher, Permit) {
    let settings = StreamRegistry { max_waiting: 8, ..StreamRegistry::of_streams(1) };
    let metrics = AdmissionMetrics::register(&mut MetricRegistry::new());
    let admission = Admission::new(settings, metrics);
    let registry = Arc::new(ModelRegistry::default());
    let permit = admission.admit("x").now_or_never().unwrap().unwrap();
    let limits = OpenLimits { credit_chunks: 8, recovery_wait: Duration::ZERO };
    let metrics = ServeMetrics::register(&mut MetricRegistry::new());
    (Dispatcher::new(admission, registry, limits, metrics), permit)
}

fn ask(dispatcher: &Dispatcher, model: &str) -> Option<ServeError> {
    dispatcher.generate(plain(model), Instant::now()).now_or_never().map(Result::unwrap_err)
}

#[tokio::test]
async fn nobody_waits_for_a_model_that_can_not_be_reached() {
    let (dispatcher, _permit) = full();
    let unknown = RouteError::UnknownModel { model: "x".into(), served: "no model".into() };
    assert_eq!(ask(&dispatcher, "x"), Some(ServeError::Unroutable(unknown)));
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_a_worker_as_long_as_it_may() {
    let settings = StreamRegistry::of_streams(1);
    let admission = Admission::new(settings, AdmissionMetrics::register(&mut MetricRegistry::new()));
    let limits = OpenLimits { credit_chunks: 8, recovery_wait: Duration::ZERO };
    let metrics = ServeMetrics::register(&mut MetricRegistry::new());
    let registry = Arc::new(fixtures::registry(1));
    let dispatcher = Dispatcher::new(admission.clone(), registry, limits, metrics);
    let began = tokio::time::Instant::now();
    let deadline = Some(began.into_std() + Duration::from_secs(2));
    let error = dispatcher.generate(GenerateRequest { deadline, ..plain("m") }, Instant::now()).await;
    assert_eq!((error.unwrap_err(), began.elapsed().as_secs()), (ServeError::DeadlinePassed, 2));

    let settings = StreamRegistry { wait_timeout: Duration::from_secs(5), ..settings };
    admission.configure(settings, RateLimits::default());
    let error = dispatcher.generate(plain("m"), Instant::now()).await.unwrap_err();
    let expected = RouteError::NoWorker { model: "m".into() };
    assert_eq!((error, began.elapsed().as_secs()), (expected.into(), 7));
}
