#![allow(clippy::unwrap_used)]

use super::*;
use crate::fleet::fixtures::{failure, open, service, worker};

fn names(registry: &ModelRegistry) -> Vec<String> {
    registry.models().into_iter().map(|model| model.name).collect()
}

#[test]
fn what_workers_report_reaches_requests_and_whoever_waits() {
    let registry = ModelRegistry::default();
    let (phases, _) = registry.write().add("m", 2);
    assert!(!registry.is_ready() && registry.links().is_empty());
    assert!(matches!(registry.route("m"), Err(RouteError::NoWorker { .. })));
    let service = service("d", 5);
    let _streams = open(&service.link, 1);
    registry.set_ready(&worker("m", 1), service);
    assert_eq!(*phases.borrow(), Phase::Ready);
    assert!(registry.is_ready());
    assert_eq!(registry.route("m").unwrap().link.live_streams(), 1);
    assert_eq!(registry.name_of("d").as_deref(), Some("m"));
    assert_eq!(registry.model("d").map(|status| status.name).as_deref(), Some("m"));
    assert_eq!(
        (registry.links().len(), registry.links_of("m").len(), registry.links_of("d").len()),
        (1, 1, 0)
    );
    let states: Vec<_> = registry.workers().into_iter().map(|status| (status.worker, status.state)).collect();
    assert_eq!(states, [(0, WorkerState::Spawning), (1, WorkerState::Ready)]);
    registry.set_state(&worker("m", 1), WorkerState::Exited, None);
    assert!(!registry.is_ready() && registry.links().is_empty());
}

#[test]
fn the_last_first_failure_ends_a_load() {
    let registry = ModelRegistry::default();
    let (phases, _) = registry.write().add("m", 2);
    registry.first_failed(&worker("m", 1), failure("one"));
    assert_eq!(*phases.borrow(), Phase::Loading);
    registry.first_failed(&worker("m", 0), failure("two"));
    assert_eq!(*phases.borrow(), Phase::Failing(failure("two")));
    assert!(registry.write().find_loaded("m").is_some(), "its workers are not gone yet");
    registry.write().end("m", Some(failure("two")));
    assert_eq!(*phases.borrow(), Phase::Failed(failure("two")));
    assert!(registry.write().find_loaded("m").is_none());
    assert_eq!(names(&registry), ["m"], "it is listed");
}

#[test]
fn a_model_that_is_unloaded_leaves_the_table_when_its_workers_are_gone() {
    let registry = ModelRegistry::default();
    registry.write().add("m", 1);
    let phases = registry.write().drain("m").unwrap();
    assert_eq!(*phases.borrow(), Phase::Draining);
    assert_eq!(names(&registry), ["m"]);
    registry.write().end("m", None);
    assert_eq!(*phases.borrow(), Phase::Gone);
    assert!(names(&registry).is_empty());
    assert!(registry.write().drain("m").is_none());
    assert!(!registry.write().remove("m"));
    // Late reports of its workers.
    registry.set_ready(&worker("m", 0), service("d", 5));
    registry.set_damage("m", Some("damaged".into()));
    assert!(names(&registry).is_empty());
}

#[test]
fn another_attempt_replaces_a_failed_one() {
    let registry = ModelRegistry::default();
    registry.write().add("m", 1);
    registry.write().end("m", Some(failure("no")));
    registry.write().add("other", 1);
    let (phases, _) = registry.write().add("m", 3);
    assert_eq!(*phases.borrow(), Phase::Loading);
    assert_eq!(names(&registry), ["other", "m"]);
    assert_eq!(registry.model("m").map(|status| (status.workers, status.reason)), Some((3, None)));
}

#[test]
fn only_the_latest_failures_are_listed() {
    let registry = ModelRegistry::default();
    registry.write().add("serves", 1);
    for number in 0..MAX_FAILED + 3 {
        let name = format!("bad{number}");
        registry.write().add(&name, 1);
        registry.write().end(&name, Some(failure("no")));
    }
    let names = names(&registry);
    assert_eq!(names.len(), MAX_FAILED + 1);
    assert_eq!((&*names[0], &*names[1], names.last().unwrap().as_str()), ("serves", "bad3", "bad10"));
    assert!(registry.write().remove("bad5"));
    assert_eq!(registry.write().loaded().count(), 1);
}
