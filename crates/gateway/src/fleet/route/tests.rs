#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    fleet::fixtures::{failure, open, service, worker},
    worker::WorkerState,
};

/// A model that one worker for each of `services` serves.
fn serving(name: &str, services: &[&Service]) -> Model {
    let mut model = Model::new(name, services.len(), 0).0;
    for (number, service) in services.iter().enumerate() {
        model.set_ready(&worker(name, number), (*service).clone());
    }
    model
}

fn failed(name: &str) -> Model {
    let mut model = Model::new(name, 1, 0).0;
    model.fail(failure("no"));
    model
}

fn draining(name: &str, service: &Service) -> Model {
    let mut model = serving(name, &[service]);
    model.drain();
    model
}

fn unknown_model(model: &str, served: &str) -> RouteError {
    RouteError::UnknownModel { model: model.into(), served: served.into() }
}

/// Live streams of the link that a request goes to: they identify the services of these tests.
fn load(models: &[Model], id: &str) -> usize {
    route(models, id).unwrap().link.live_streams()
}

#[test]
fn a_request_goes_to_the_least_loaded_ready_worker() {
    let services = [service("d", 1), service("d", 2), service("d", 3)];
    let _streams: Vec<_> =
        services.iter().zip([3, 1, 2]).map(|(service, count)| open(&service.link, count)).collect();
    let [one, two, three] = &services;
    let mut model = serving("m", &[one, two, three]);
    assert_eq!(load(std::slice::from_ref(&model), "m"), 1);
    model.set_state(&worker("m", 1), WorkerState::Exited, None);
    assert_eq!(load(std::slice::from_ref(&model), "m"), 2);
    three.link.fail_all("it died, and its task does not know yet");
    assert_eq!(load(&[model], "m"), 3);
}

#[test]
fn a_model_without_a_ready_worker_may_have_one_later() {
    let no_worker = RouteError::NoWorker { model: "m".into() };
    assert_eq!(route(&[Model::new("m", 2, 0).0], "m").unwrap_err(), no_worker);
    let dead = service("d", 1);
    dead.link.fail_all("it died");
    assert_eq!(route(&[serving("m", &[&dead])], "m").unwrap_err(), no_worker);
    let mut failing = Model::new("m", 1, 0).0;
    failing.first_failed(failure("no"));
    assert_eq!(route(&[failing], "m").unwrap_err(), no_worker);
}

#[test]
fn a_model_that_is_not_loaded_is_unknown_and_the_error_lists_those_that_are() {
    assert_eq!(route(&[], "m").unwrap_err(), unknown_model("m", "no model"));
    let (a, b) = (service("a", 1), service("b", 2));
    let models = [serving("a", &[&a]), failed("f"), draining("b", &b), Model::new("c", 1, 0).0];
    for id in ["m", "f"] {
        assert_eq!(route(&models, id).unwrap_err(), unknown_model(id, "`a`, `c`"));
        assert_eq!(unknown(&models, id), unknown_model(id, "`a`, `c`"));
    }
    let unloading = RouteError::Unloading { model: "b".into(), served: "`a`, `c`".into() };
    assert_eq!(route(&models, "b").unwrap_err(), unloading);
}

#[test]
fn a_name_comes_before_a_digest_and_a_digest_prefers_a_model_that_takes_requests() {
    let [one, two, three] = [service("d", 1), service("d", 2), service("e", 3)];
    let _streams: Vec<_> =
        [&one, &two, &three].into_iter().zip(1..).map(|(it, n)| open(&it.link, n)).collect();
    let models = [draining("old", &one), serving("new", &[&two])];
    assert_eq!(load(&models, "d"), 2);
    assert_eq!(find(&models, "d").unwrap().name, "new");
    let models = [serving("new", &[&two]), serving("d", &[&three])];
    assert_eq!(load(&models, "d"), 3);
    let only = [draining("old", &one)];
    let unloading = RouteError::Unloading { model: "d".into(), served: "no model".into() };
    assert_eq!(route(&only, "d").unwrap_err(), unloading);
}
