#![allow(clippy::unwrap_used)]

use std::{path::Path, time::Duration};

use futures_util::FutureExt;

use super::*;
use crate::{
    cli::Flags,
    config::{Config, RateLimits, StreamRegistry},
    fleet::{FleetMetrics, RouteError, fixtures},
    metrics::MetricRegistry,
    serve::{
        admission::{AdmissionMetrics, Permit},
        request::plain,
    },
    worker::{WorkerLauncher, WorkerMetrics},
};

/// A dispatcher over the models of `registry`, which no request loads others into.
fn dispatcher(admission: Admission, registry: ModelRegistry) -> Dispatcher {
    let mut metrics = MetricRegistry::new();
    // No worker is started.
    let worker_bin = std::env::current_exe().ok();
    let flags = Flags { models: vec!["m".into()], worker_bin, ..Flags::default() };
    let config = Config::from_text(Path::new("test.yaml"), "models:\n  on_demand: off\n", &flags).unwrap();
    let launcher = WorkerLauncher::new(&config, WorkerMetrics::register(&mut metrics)).unwrap();
    let registry = Arc::new(registry);
    let models = Models::new(launcher, Arc::clone(&registry), FleetMetrics::register(&mut metrics));
    let limits = OpenLimits { credit_chunks: 8, recovery_wait: Duration::ZERO };
    Dispatcher::new(admission, models, registry, limits, ServeMetrics::register(&mut metrics))
}

fn admission(settings: StreamRegistry) -> Admission {
    Admission::new(settings, AdmissionMetrics::register(&mut MetricRegistry::new()))
}

/// A dispatcher over no models, and the only place that a model `x` would have.
fn full() -> (Dispatcher, Permit) {
    let admission = admission(StreamRegistry { max_waiting: 8, ..StreamRegistry::of_streams(1) });
    let permit = admission.admit("x").now_or_never().unwrap().unwrap();
    (dispatcher(admission, ModelRegistry::default()), permit)
}

fn ask(dispatcher: &Dispatcher, model: &str) -> Option<ServeError> {
    dispatcher.generate(plain(model), 1, Instant::now()).now_or_never().map(Result::unwrap_err)
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
    let admission = admission(settings);
    let dispatcher = dispatcher(admission.clone(), fixtures::registry(1));
    let began = tokio::time::Instant::now();
    let deadline = Some(began.into_std() + Duration::from_secs(2));
    let error = dispatcher.generate(GenerateRequest { deadline, ..plain("m") }, 1, Instant::now()).await;
    assert_eq!((error.unwrap_err(), began.elapsed().as_secs()), (ServeError::DeadlinePassed, 2));

    let settings = StreamRegistry { wait_timeout: Duration::from_secs(5), ..settings };
    admission.configure(settings, RateLimits::default());
    let error = dispatcher.generate(plain("m"), 1, Instant::now()).await.unwrap_err();
    let expected = RouteError::NoWorker { model: "m".into() };
    assert_eq!((error, began.elapsed().as_secs()), (expected.into(), 7));
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_at_its_deadline_was_not_cancelled() {
    let mut registry = MetricRegistry::new();
    let metrics = ServeMetrics::register(&mut registry);
    let deadline = Some(tokio::time::Instant::now().into_std() + Duration::from_secs(1));
    let begin = || Attempts { unfinished: vec![metrics.begin("m", None, Instant::now())], deadline };
    let dropped_late = begin();
    drop(begin());
    tokio::time::advance(Duration::from_secs(1)).await;
    drop(dropped_late);
    assert!(registry.render().unwrap().contains("kr_cancellations_total{model=\"m\"} 1\n"));
}
