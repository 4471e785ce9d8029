use super::*;

mod limits;
mod restarts;

const SECOND: Duration = Duration::from_secs(1);
const SPAWNED: Event = Event::Worker(WorkerEvent::Spawned);
const JOINED: Event = Event::Worker(WorkerEvent::Joined { pid: 1 });

fn policy() -> Workers {
    Workers {
        count: 1,
        ring_bytes: 1 << 16,
        connect_timeout: 5 * SECOND,
        load_timeout: 60 * SECOND,
        heartbeat_timeout: 3 * SECOND,
        step_timeout: 20 * SECOND,
        recovery_timeout: 20 * SECOND,
        restart_backoff: SECOND..=8 * SECOND,
        crash_loop_deaths: 4,
        crash_loop_window: 30 * SECOND,
        binary: None,
        store: None,
    }
}

/// A machine and a clock that moves by hand.
struct World {
    machine: WorkerStateMachine,
    began: Instant,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let (machine, actions) = WorkerStateMachine::new(policy(), 10 * SECOND, now);
        assert_eq!(actions, [Action::Spawn]);
        Self { machine, began: now, now }
    }

    fn ready() -> Self {
        let mut world = Self::new();
        world.start();
        world
    }

    /// From `Spawning` to `Ready`.
    fn start(&mut self) {
        assert_eq!(self.on(SPAWNED), []);
        assert_eq!(self.on(JOINED), []);
        assert_eq!(self.on(loaded()), [Action::Serve(info())]);
        assert_eq!(self.shown(), WorkerState::Ready);
    }

    fn on(&mut self, event: impl Into<Event>) -> Vec<Action> {
        self.machine.on(event.into(), self.now)
    }

    /// Drains a ready worker without streams.
    fn exit(&mut self) {
        assert_eq!(self.on(Event::Drain), [Action::Close]);
        assert_eq!(self.on(Event::Idle), [Action::SendDrain]);
    }

    fn died(&mut self) -> Vec<Action> {
        self.on(WorkerEvent::Died("crash".into()))
    }

    /// Lets time pass, with every tick that is due meanwhile and nothing to be done about it.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.machine.wake_at().filter(|at| *at < end) {
            self.now = at;
            assert_eq!(self.on(Event::Tick), [], "after {:?}", self.now - self.began);
        }
        self.now = end;
    }

    /// Time in which the gateway does not run.
    fn suspend(&mut self, time: Duration) {
        self.now += time;
    }

    fn shown(&self) -> WorkerState {
        self.machine.shown()
    }

    /// How long until the present state's limit is passed.
    fn wait(&self) -> Duration {
        self.machine.deadline().map_or(Duration::MAX, |at| at - self.now)
    }

    /// Lets time pass until there is something to be done.
    fn tick(&mut self) -> Vec<Action> {
        while let Some(at) = self.machine.wake_at() {
            self.now = at;
            let actions = self.on(Event::Tick);
            if !actions.is_empty() {
                return actions;
            }
        }
        vec![]
    }
}

fn loaded() -> Event {
    WorkerEvent::Loaded(info()).into()
}

fn info() -> ModelInfo {
    ModelInfo {
        name: "tiny".into(),
        digest: "d".into(),
        architecture: "llama".into(),
        context_length: 64,
        vocab_size: 10,
        weight_bytes: 1,
        load_micros: 1,
        tokenizer_micros: 1,
    }
}

fn failure(kind: FailureKind, message: &str) -> Failure {
    Failure { kind, param: None, message: message.into() }
}

fn killed(actions: &[Action]) -> &str {
    match actions {
        [Action::Kill { why, .. }] => why,
        other => panic!("{other:?} is not a kill"),
    }
}

#[test]
fn a_process_goes_through_all_states() {
    let mut world = World::new();
    let mut shown = vec![world.shown()];
    let died = WorkerEvent::Died("done".into()).into();
    for event in [SPAWNED, JOINED, loaded(), Event::Drain, died] {
        world.on(event);
        shown.push(world.shown());
    }
    assert_eq!(shown, WorkerState::ALL);
}

#[test]
fn events_out_of_place_change_nothing() {
    let mut world = World::new();
    assert_eq!(world.on(loaded()), []);
    assert_eq!(world.on(JOINED), []);
    assert_eq!(world.on(WorkerEvent::Alive), []);
    assert_eq!(world.shown(), WorkerState::Spawning);
    let mut world = World::ready();
    assert_eq!(world.on(loaded()), [], "a second Ready changes nothing");
    assert_eq!(world.on(SPAWNED), []);
    assert_eq!(world.on(Event::Tick), [], "nothing is due yet");
    assert_eq!(world.shown(), WorkerState::Ready);
}

#[test]
fn each_phase_before_ready_has_its_limit() {
    let mut world = World::new();
    assert_eq!(world.wait(), 5 * SECOND);
    assert_eq!(killed(&world.tick()), "it was not started within 5s");
    let mut world = World::new();
    world.on(SPAWNED);
    assert_eq!(killed(&world.tick()), "it did not connect within 5s");
    assert_eq!(world.shown(), WorkerState::Exited);
    let mut world = World::new();
    world.on(SPAWNED);
    world.on(JOINED);
    assert_eq!(world.wait(), 60 * SECOND);
    assert_eq!(killed(&world.tick()), "it did not load the model within 60s");
}

#[test]
fn a_silent_worker_is_killed_and_one_that_sends_is_not() {
    let mut world = World::ready();
    for _ in 0..10 {
        world.pass(2 * SECOND);
        assert_eq!(world.on(Event::Tick), []);
        world.on(WorkerEvent::Alive);
    }
    let mut world = World::ready();
    world.pass(2 * SECOND);
    world.on(WorkerEvent::Heartbeat(Heartbeat::default()));
    assert_eq!(world.wait(), 3 * SECOND);
    assert!(killed(&world.tick()).starts_with("it froze: nothing came"));
    assert_eq!(world.shown(), WorkerState::Exited);
}

#[test]
fn a_worker_whose_steps_stand_still_is_killed_only_while_it_has_work() {
    let beat = |step, runnable| WorkerEvent::Heartbeat(Heartbeat { step, runnable, ..Heartbeat::default() });
    let mut world = World::ready();
    for step in 0..40 {
        world.pass(SECOND);
        world.on(beat(step, 1));
        assert_eq!(world.on(Event::Tick), [], "steps are made");
    }
    for _ in 0..40 {
        world.pass(SECOND);
        world.on(beat(39, 0));
        assert_eq!(world.on(Event::Tick), [], "nothing runs");
    }
    for _ in 0..20 {
        world.pass(SECOND);
        world.on(beat(39, 1));
        assert_eq!(world.on(Event::Tick), []);
    }
    world.pass(SECOND);
    world.on(beat(39, 1));
    assert!(killed(&world.on(Event::Tick)).starts_with("it froze: no step in 20s"));
}

#[test]
fn a_killed_worker_is_started_again_only_after_it_is_reaped() {
    let mut world = World::ready();
    assert!(matches!(world.tick()[..], [Action::Kill { .. }]));
    assert_eq!(world.wait(), Duration::MAX);
    world.pass(100 * SECOND);
    assert_eq!(world.on(Event::Tick), []);
    assert_eq!(world.died(), []);
    assert!(
        world.machine.note().is_some_and(|why| why.starts_with("it froze")),
        "the reason for the kill stays"
    );
    assert_eq!(world.tick(), [Action::Spawn]);
    assert_eq!(world.shown(), WorkerState::Spawning);
}

#[test]
fn the_back_off_doubles_up_to_its_cap_and_a_crash_loop_waits_a_window() {
    let mut world = World::ready();
    let mut waits = Vec::new();
    for _ in 0..4 {
        world.died();
        waits.push(world.wait().as_secs());
        assert_eq!(world.tick(), [Action::Spawn]);
        world.start();
    }
    assert_eq!(waits, [0, 1, 2, 30], "the fourth death within the window is a crash loop");
    assert_eq!(world.now - world.began, 33 * SECOND);
}

#[test]
fn the_back_off_is_capped_and_forgets_after_a_long_service() {
    let mut world = World::new();
    world.machine.policy.crash_loop_deaths = 100;
    world.start();
    let mut waits = Vec::new();
    for _ in 0..6 {
        world.died();
        waits.push(world.wait().as_secs());
        world.tick();
        world.start();
    }
    assert_eq!(waits, [0, 1, 2, 4, 8, 8]);
    for _ in 0..30 {
        world.pass(SECOND);
        world.on(WorkerEvent::Alive);
    }
    // Whether it is killed for it or not.
    world.tick();
    world.died();
    assert_eq!(world.wait(), Duration::ZERO);
}

#[test]
fn a_worker_that_never_served_is_not_started_again_hot() {
    let mut world = World::new();
    let mut waits = Vec::new();
    for _ in 0..3 {
        world.died();
        waits.push(world.wait().as_secs());
        world.tick();
    }
    assert_eq!(waits, [1, 2, 4]);
}

#[test]
fn a_model_that_does_not_load_is_reported_and_not_tried_again_hot() {
    let mut world = World::new();
    world.on(SPAWNED);
    world.on(JOINED);
    let failure = failure(FailureKind::UnknownModel, "no such model");
    assert_eq!(killed(&world.on(WorkerEvent::LoadFailed(failure.clone()))), "no such model");
    assert_eq!(world.died(), [Action::ReportFirstFailure(failure)]);
    assert_eq!(world.wait(), 30 * SECOND);
}

#[test]
fn only_a_worker_that_never_served_reports_a_first_failure() {
    let mut world = World::new();
    assert_eq!(world.died(), [Action::ReportFirstFailure(failure(FailureKind::Internal, "crash"))]);
    let mut world = World::ready();
    assert_eq!(world.died(), []);
}

#[test]
fn draining_is_asked_for_waited_for_and_final() {
    let mut world = World::ready();
    assert_eq!(world.on(Event::Drain), [Action::Close]);
    assert_eq!(world.shown(), WorkerState::Draining);
    for _ in 0..100 {
        world.pass(2 * SECOND);
        assert_eq!(world.on(WorkerEvent::Alive), [], "its streams have all the time that they need");
    }
    assert_eq!(world.on(Event::Idle), [Action::SendDrain]);
    assert_eq!(world.on(Event::Drain), []);
    assert_eq!(world.on(Event::Idle), []);
    assert_eq!(world.died(), [Action::Stop]);
    assert_eq!(world.wait(), Duration::MAX);
}

#[test]
fn a_worker_that_freezes_while_it_finishes_is_killed() {
    let mut world = World::ready();
    world.on(Event::Drain);
    assert!(killed(&world.tick()).starts_with("it froze"));
    assert_eq!(world.died(), [Action::Stop]);
}

#[test]
fn a_drained_worker_must_exit_soon() {
    let mut world = World::ready();
    assert_eq!(world.on(WorkerEvent::Drained), [], "nobody asked for it");
    assert_eq!(world.wait(), 3 * SECOND);
    world.exit();
    world.pass(SECOND);
    assert_eq!(world.on(WorkerEvent::Drained), []);
    assert_eq!(world.wait(), DRAINED_GRACE);
    assert!(matches!(world.tick()[..], [Action::Kill { .. }]));
}

#[test]
fn draining_has_a_limit() {
    let mut world = World::ready();
    world.exit();
    assert_eq!(world.wait(), 10 * SECOND);
    assert_eq!(killed(&world.tick()), "it did not finish within 10s");
    assert_eq!(world.died(), [Action::Stop]);
}

#[test]
fn a_worker_without_work_is_not_drained_but_ended() {
    let mut world = World::new();
    world.on(SPAWNED);
    assert_eq!(killed(&world.on(Event::Drain)), "it is not needed any more");
    assert_eq!(world.died(), [Action::Stop]);
    let mut world = World::ready();
    world.died();
    assert_eq!(world.on(Event::Drain), [Action::Stop], "it waits for its next start");
}
