use super::*;
use crate::fleet::fixtures::{failure, open, service, worker};

fn model(workers: usize) -> Model {
    Model::new("m", workers, 7).0
}

fn phase(model: &Model) -> Phase {
    model.phase.borrow().clone()
}

#[test]
fn the_first_worker_that_serves_makes_it_ready_and_later_deaths_do_not_undo_that() {
    let mut model = model(2);
    assert_eq!((phase(&model), model.state()), (Phase::Loading, ModelState::Loading));
    model.set_ready(&worker("m", 1), service("d", 5));
    assert_eq!((phase(&model), model.state()), (Phase::Ready, ModelState::Ready));
    assert_eq!((model.status().ready_workers, model.status().workers), (1, 2));
    model.set_state(&worker("m", 1), WorkerState::Exited, Some("it crashed".into()));
    assert_eq!(
        (phase(&model), model.state()),
        (Phase::Ready, ModelState::Loading),
        "the other one is coming"
    );
    assert_eq!(model.status().reason, None);
    model.set_state(&worker("m", 0), WorkerState::Exited, None);
    assert_eq!((phase(&model), model.state()), (Phase::Ready, ModelState::Failed));
    assert_eq!(model.status().reason.as_deref(), Some("it crashed"));
    assert!(model.has_digest("d"), "its description stays");
}

#[test]
fn it_fails_once_the_first_process_of_every_worker_failed() {
    let mut model = model(3);
    for message in ["one", "two"] {
        model.first_failed(failure(message));
        assert_eq!(phase(&model), Phase::Loading);
    }
    model.first_failed(failure("three"));
    assert_eq!(phase(&model), Phase::Failing(failure("three")));
    // Too late: its workers are being ended.
    model.set_ready(&worker("m", 0), service("d", 5));
    model.drain();
    assert_eq!(phase(&model), Phase::Failing(failure("three")));
    model.fail(failure("three"));
    assert_eq!((model.state(), model.worker_count()), (ModelState::Failed, 0));
    assert_eq!(model.status().reason.as_deref(), Some("three"));
}

#[test]
fn it_does_not_fail_after_a_worker_has_served() {
    let mut model = model(2);
    model.first_failed(failure("one"));
    model.set_ready(&worker("m", 0), service("d", 5));
    model.first_failed(failure("two"));
    assert_eq!(phase(&model), Phase::Ready);
}

#[test]
fn a_model_that_is_unloaded_stays_so_whatever_its_workers_do() {
    for ready in [false, true] {
        let mut model = model(1);
        if ready {
            model.set_ready(&worker("m", 0), service("d", 5));
        }
        model.drain();
        assert_eq!((phase(&model), model.state()), (Phase::Draining, ModelState::Draining));
        model.set_ready(&worker("m", 0), service("d", 5));
        model.first_failed(failure("late"));
        assert_eq!(phase(&model), Phase::Draining);
        assert!(!model.takes_requests());
        let shown: Vec<_> = model.worker_statuses().map(|status| status.state).collect();
        assert_eq!(shown, [WorkerState::Draining], "a ready worker gets nothing new");
    }
}

#[test]
fn whoever_waits_for_its_end_sees_it() {
    let model = model(1);
    let phases = model.phases();
    model.end();
    assert_eq!(*phases.borrow(), Phase::Gone);
}

#[test]
fn a_worker_whose_link_failed_is_shown_as_dead_before_its_task_says_so() {
    let mut model = model(1);
    let service = service("d", 5);
    let streams = open(&service.link, 2);
    model.set_ready(&worker("m", 0), service.clone());
    let status = |model: &Model| model.worker_statuses().next();
    let alive = status(&model).map(|it| (it.state, it.streams, it.work.map(|work| work.pid)));
    assert_eq!(alive, Some((WorkerState::Ready, 2, Some(5))));
    service.link.fail_all("it died");
    assert_eq!(status(&model).map(|it| it.state), Some(WorkerState::Exited));
    assert_eq!((model.state(), model.services().count()), (ModelState::Failed, 0));
    drop(streams);
}

#[test]
fn damage_is_shown_unless_something_worse_is() {
    let mut model = model(1);
    model.set_ready(&worker("m", 0), service("d", 5));
    model.set_damage(Some("a blob is damaged".into()));
    assert_eq!(
        (model.state(), model.status().reason.as_deref()),
        (ModelState::Ready, Some("a blob is damaged"))
    );
    model.set_state(&worker("m", 0), WorkerState::Exited, Some("it crashed".into()));
    assert_eq!(model.status().reason.as_deref(), Some("it crashed"));
}

#[test]
fn workers_that_it_does_not_have_change_nothing() {
    let mut model = model(1);
    model.set_state(&worker("m", 1), WorkerState::Exited, None);
    assert_eq!((model.state(), model.worker_count()), (ModelState::Loading, 1));
}

#[test]
fn a_worker_that_finishes_what_it_has_gets_nothing_new_and_keeps_its_link() {
    let mut model = model(2);
    let finishing = service("d", 5);
    let streams = open(&finishing.link, 2);
    model.set_ready(&worker("m", 0), finishing);
    model.set_ready(&worker("m", 1), service("d", 6));
    model.set_state(&worker("m", 0), WorkerState::Draining, None);
    assert_eq!(model.services().map(|service| service.pid).collect::<Vec<_>>(), [6]);
    assert_eq!((model.links().count(), model.state()), (2, ModelState::Ready));
    let shown: Vec<_> =
        model.worker_statuses().map(|it| (it.state, it.streams, it.work.map(|work| work.pid))).collect();
    assert_eq!(shown, [(WorkerState::Draining, 2, Some(5)), (WorkerState::Ready, 0, Some(6))]);
    model.set_state(&worker("m", 0), WorkerState::Spawning, None);
    assert_eq!(model.links().count(), 1);
    drop(streams);
}
