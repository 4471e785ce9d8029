#![allow(clippy::unwrap_used)]

use futures_util::FutureExt;
use protocol::message::OperationKind;

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

/// Without a prefix.
fn any_route(models: &[Model], id: &str) -> Result<Route, RouteError> {
    route(models, id, RouteRequest::default())
}

/// Live streams of the link that a request goes to: they identify the services of these tests.
fn load(models: &[Model], id: &str) -> usize {
    any_route(models, id).unwrap().link.live_streams()
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
    assert_eq!(any_route(&[Model::new("m", 2, 0).0], "m").unwrap_err(), no_worker);
    let dead = service("d", 1);
    dead.link.fail_all("it died");
    assert_eq!(any_route(&[serving("m", &[&dead])], "m").unwrap_err(), no_worker);
    let mut failing = Model::new("m", 1, 0).0;
    failing.first_failed(failure("no"));
    assert_eq!(any_route(&[failing], "m").unwrap_err(), no_worker);
}

#[test]
fn a_model_that_is_not_loaded_is_unknown_and_the_error_lists_those_that_are() {
    assert_eq!(any_route(&[], "m").unwrap_err(), unknown_model("m", "no model"));
    let (a, b) = (service("a", 1), service("b", 2));
    let models = [serving("a", &[&a]), failed("f"), draining("b", &b), Model::new("c", 1, 0).0];
    for id in ["m", "f"] {
        assert_eq!(any_route(&models, id).unwrap_err(), unknown_model(id, "`a`, `c`"));
        assert_eq!(unknown(&models, id, iter::empty()), unknown_model(id, "`a`, `c`"));
    }
}

#[test]
fn a_model_that_leaves_takes_no_new_requests_and_serves_earlier_ones_until_its_workers_are_ended() {
    let (a, b) = (service("a", 1), service("b", 2));
    let _streams = open(&b.link, 2);
    let mut models = [serving("a", &[&a]), draining("b", &b), Model::new("c", 1, 0).0];
    let unloading = RouteError::Unloading { model: "b".into(), served: "`a`, `c`".into() };
    assert_eq!(resolve(&models, "b").unwrap_err(), unloading);
    assert_eq!((load(&models, "b"), is_usable(&models, "b")), (2, Ok(true)));
    models[1].end_workers();
    assert_eq!(any_route(&models, "b").unwrap_err(), unloading);
    assert_eq!(is_usable(&models, "b").unwrap_err(), unloading);
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
    assert_eq!(resolve(&only, "d").unwrap_err(), unloading);
}

#[test]
fn an_error_lists_what_could_be_loaded_behind_what_is_and_not_without_end() {
    let (a, b) = (service("a", 1), service("b", 2));
    let models = [serving("a", &[&a]), draining("b", &b), failed("f")];
    let listed = |others: &[&str]| match unknown(&models, "m", others.iter().copied()) {
        RouteError::UnknownModel { served, .. } => served,
        other => panic!("{other:?}"),
    };
    assert_eq!(listed(&["a", "b", "f", "x"]), "`a`, `b`, `f`, `x`");
    let many: Vec<_> = (0..30).map(|number| format!("m{number}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let text = listed(&many);
    assert!(
        text.starts_with("`a`, `m0`") && text.ends_with("`m18`, and 11 more in GET /v1/models"),
        "{text}"
    );
}

#[test]
fn an_operation_goes_to_the_live_worker_with_the_fewest() {
    let [one, two] = [service("d", 1), service("d", 2)];
    let models = [serving("m", &[&one, &two])];
    let kind = OperationKind::CheckDraft { draft: "d".into() };
    let mut asked = [&one, &two, &two].map(|service| Box::pin(service.link.operate(kind.clone(), false)));
    assert!(asked.iter_mut().all(|asked| asked.as_mut().now_or_never().is_none()));
    let open = || route_operation(&models, "m").unwrap().link.open_operations();
    assert_eq!(open(), 1);
    one.link.fail_all("it died, and its task does not know yet");
    assert_eq!(open(), 2);
    assert!(matches!(route_operation(&models, "x"), Err(RouteError::UnknownModel { .. })));
}

#[test]
fn the_only_model_need_not_be_named() {
    let service = service("d", 1);
    let tiny = || serving("tiny", &[&service]);
    assert_eq!(only(&[tiny(), failed("f"), draining("d", &service)]), Ok("tiny".into()));
    for (models, served) in [
        (vec![], "no model"),
        (vec![failed("f")], "no model"),
        (vec![tiny(), serving("other", &[&service])], "`tiny`, `other`"),
    ] {
        assert_eq!(only(&models), Err(RouteError::NotNamed { served: served.into() }));
    }
}
