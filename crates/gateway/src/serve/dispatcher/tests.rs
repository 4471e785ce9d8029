#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    config::StreamRegistry,
    fleet::RouteError,
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
    (Dispatcher::new(admission, registry, 8), permit)
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
