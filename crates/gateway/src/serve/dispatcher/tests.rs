#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures_util::FutureExt;
use protocol::message::{Prompt, Sampling};

use super::*;
use crate::{config::StreamRegistry, fleet::RouteError, serve::admission::Permit};

/// A dispatcher over a model without ready workers, and the only place of that model.
fn full() -> (Dispatcher, Permit) {
    let settings = StreamRegistry {
        min_streams: 1,
        max_streams: 1,
        max_waiting: 8,
        wait_timeout: Duration::from_secs(30),
        credit_chunks: 8,
    };
    let admission = Admission::new(settings, Arc::default());
    let registry = Arc::new(ModelRegistry::default());
    registry.add("m", 1);
    let permit = admission.admit("m").now_or_never().unwrap().unwrap();
    (Dispatcher::new(admission, registry, 8), permit)
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
    let unknown = RouteError::UnknownModel { model: "x".into(), served: "`m`".into() };
    assert_eq!(ask(&dispatcher, "x"), Some(ServeError::Unroutable(unknown)));
    let no_worker = RouteError::NoWorker { model: "m".into() };
    assert_eq!(ask(&dispatcher, "m"), Some(ServeError::Unroutable(no_worker)));
}
