//! Restarts that an administrator asks for.

use proptest::{collection::vec, prelude::*};

use super::*;

const RESTART: Event = Event::Restart { finish: Duration::ZERO };
const RESTARTED: Action = Action::ReportRestart(Ok(()));

/// Streams may go on for this long.
const FINISH: Duration = Duration::from_secs(2);

fn failed(message: &str) -> Action {
    let failure = failure(FailureKind::Internal, message);
    Action::ReportRestart(Err(RestartError::Failed(failure)))
}

impl World {
    /// From `Spawning` to `Ready`, at the end of a restart.
    fn come_back(&mut self) {
        self.on(SPAWNED);
        self.on(JOINED);
        assert_eq!(self.on(loaded()), [Action::Serve(info()), RESTARTED]);
    }
}

#[test]
fn a_restarted_worker_is_closed_released_ended_and_started_again_at_once() {
    let mut world = World::ready();
    for _ in 0..20 {
        assert_eq!(world.on(RESTART), [Action::Close]);
        assert_eq!(world.shown(), WorkerState::Draining);
        assert_eq!(world.tick(), [Action::Release, Action::SendDrain]);
        assert_eq!(world.on(WorkerEvent::Drained), []);
        assert_eq!(world.died(), [Action::Spawn]);
        world.come_back();
    }
    world.died();
    assert_eq!(world.wait(), Duration::ZERO, "none of that was a crash");
}

#[test]
fn streams_may_finish_first() {
    let mut world = World::ready();
    let restart = Event::Restart { finish: FINISH };
    assert_eq!(world.on(restart.clone()), [Action::Close]);
    world.pass(FINISH / 2);
    assert_eq!(world.on(Event::Idle), [Action::SendDrain], "none is left to be released");
    world.died();
    world.come_back();

    world.on(restart);
    world.pass(FINISH);
    assert_eq!(world.on(Event::Tick), [Action::Release, Action::SendDrain]);
}

#[test]
fn a_second_order_changes_nothing_while_a_restart_is_under_way() {
    let mut world = World::ready();
    for event in [RESTART, Event::Idle] {
        world.on(event);
        assert_eq!(world.on(RESTART), []);
    }
    assert_eq!(world.died(), [Action::Spawn]);
    for event in [SPAWNED, JOINED] {
        assert_eq!(world.on(RESTART), []);
        assert_eq!(world.on(event), []);
    }
    assert_eq!(world.on(loaded()), [Action::Serve(info()), RESTARTED]);
    assert_eq!(world.on(RESTART), [Action::Close], "the next one");
}

#[test]
fn a_process_that_can_not_end_by_itself_is_killed_and_replaced() {
    let mut world = World::ready();
    world.on(RESTART);
    world.on(Event::Idle);
    assert!(killed(&world.tick()).starts_with("it did not finish"));
    assert_eq!(world.on(RESTART), []);
    assert_eq!(world.died(), [Action::Spawn]);
    world.come_back();
}

#[test]
fn a_worker_that_is_starting_starts_again() {
    for events in [&[][..], &[SPAWNED], &[SPAWNED, JOINED]] {
        let mut world = World::new();
        for event in events {
            world.on(event.clone());
        }
        assert_eq!(killed(&world.on(RESTART)), "it is being restarted");
        assert_eq!(world.died(), [Action::Spawn], "its end is not a failure to load");
        world.come_back();
    }
}

#[test]
fn a_back_off_is_cut_short() {
    let mut world = World::new();
    world.died();
    assert_eq!(world.wait(), SECOND);
    assert_eq!(world.on(RESTART), [Action::Spawn]);
    world.come_back();
    let mut world = World::ready();
    world.on(WorkerEvent::LoadFailed(failure(FailureKind::Internal, "no")));
    assert!(matches!(world.on(Event::Tick)[..], []));
    assert_eq!(world.on(RESTART), [], "it is being killed");
    assert_eq!(world.died(), [Action::Spawn]);
}

#[test]
fn a_new_process_that_dies_ends_the_restart_and_counts() {
    let mut world = World::ready();
    for wait in [1, 2] {
        world.on(RESTART);
        if world.shown() == WorkerState::Draining {
            world.on(Event::Idle);
            world.died();
        }
        world.on(SPAWNED);
        assert_eq!(world.died(), [failed("crash")]);
        assert_eq!((world.shown(), world.wait().as_secs()), (WorkerState::Exited, wait));
    }
    // As it says why itself.
    world.on(RESTART);
    world.on(SPAWNED);
    world.on(JOINED);
    let damaged = failure(FailureKind::DamagedModel, "damaged");
    world.on(WorkerEvent::LoadFailed(damaged.clone()));
    assert_eq!(world.died(), [Action::ReportRestart(Err(RestartError::Failed(damaged)))]);
    assert_eq!(world.wait(), 30 * SECOND);
}

#[test]
fn an_unload_ends_a_restart() {
    const STOPPED: Action = Action::ReportRestart(Err(RestartError::Stopped));
    let mut world = World::ready();
    world.on(Event::Restart { finish: FINISH });
    assert_eq!(world.on(Event::Drain), [STOPPED]);
    for _ in 0..10 {
        world.pass(FINISH);
        assert_eq!(world.on(WorkerEvent::Alive), [], "its streams have all the time that they need now");
    }
    assert_eq!(world.on(Event::Idle), [Action::SendDrain]);
    assert_eq!(world.on(RESTART), [STOPPED]);
    assert_eq!(world.died(), [Action::Stop]);

    let mut world = World::ready();
    world.on(RESTART);
    world.on(Event::Idle);
    assert_eq!(world.on(Event::Drain), [STOPPED]);
    assert_eq!(world.died(), [Action::Stop]);
}

/// What happens to a worker, apart from what its process does by itself.
#[derive(Clone, Copy, Debug)]
enum Step {
    Restart {
        finish: u64,
    },
    Drain,
    /// The process gets on by one step: it starts, connects, loads, finishes, exits.
    GetOn,
    /// It dies.
    Crash,
    /// It can't load the model.
    Fail,
    /// Time passes, in seconds.
    Wait(u64),
}

/// A machine with a process that does what a process can do.
struct Simulation {
    world: World,
    /// A process is there, and not reaped.
    process: bool,
    /// It was told to exit, or killed.
    told: bool,
    /// Restarts that are under way, as far as whoever asked knows.
    asked: usize,
    stopped: bool,
    stopping: bool,
}

impl Simulation {
    fn new() -> Self {
        let world = World::new();
        Self { world, process: true, told: false, asked: 0, stopped: false, stopping: false }
    }

    fn on(&mut self, event: impl Into<Event>) {
        let event = event.into();
        let died = matches!(event, Event::Worker(WorkerEvent::Died(_)));
        for action in self.world.on(event) {
            self.act(action, died);
        }
        assert!(self.asked <= 1);
    }

    fn act(&mut self, action: Action, died: bool) {
        match action {
            Action::Spawn => {
                assert!(!self.process && !self.stopped, "one process at a time");
                (self.process, self.told) = (true, false);
            }
            Action::SendDrain | Action::Kill { .. } => self.told = true,
            Action::ReportRestart(outcome) => {
                assert_eq!(self.asked, 1, "nobody asked for a restart");
                self.asked = 0;
                match outcome {
                    Ok(()) => assert_eq!(self.world.shown(), WorkerState::Ready),
                    Err(RestartError::Stopped) => assert!(self.stopping),
                    Err(RestartError::Failed(failure)) => {
                        assert!(died && self.world.shown() == WorkerState::Exited);
                        assert_eq!(self.world.machine.note(), Some(failure.message.as_str()));
                    }
                }
            }
            Action::Stop => self.stopped = true,
            Action::Close | Action::Release | Action::Serve(_) | Action::ReportFirstFailure(_) => {}
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            _ if self.stopped => {}
            // Whoever asks while a restart is under way is refused before.
            Step::Restart { finish } if self.asked == 0 && !self.stopping => {
                self.asked = 1;
                self.on(Event::Restart { finish: Duration::from_secs(finish) });
            }
            Step::Restart { .. } => {}
            Step::Drain => {
                self.stopping = true;
                self.on(Event::Drain);
            }
            Step::GetOn => self.get_on(),
            Step::Crash if self.process => self.die(),
            Step::Fail if self.world.shown() == WorkerState::Loading => {
                self.on(WorkerEvent::LoadFailed(failure(FailureKind::DamagedModel, "damaged")));
            }
            Step::Crash | Step::Fail => {}
            Step::Wait(seconds) => self.wait(Duration::from_secs(seconds)),
        }
    }

    fn get_on(&mut self) {
        match self.world.shown() {
            _ if self.process && self.told => self.die(),
            WorkerState::Spawning => self.on(SPAWNED),
            WorkerState::Handshaking => self.on(JOINED),
            WorkerState::Loading => self.on(loaded()),
            WorkerState::Ready => self.on(WorkerEvent::Alive),
            WorkerState::Draining => self.on(Event::Idle),
            WorkerState::Exited => {
                self.world.now = self.world.machine.wake_at().unwrap_or(self.world.now);
                self.on(Event::Tick);
            }
        }
    }

    fn die(&mut self) {
        if std::mem::take(&mut self.process) {
            self.on(WorkerEvent::Died("crash".into()));
        }
    }

    /// A worker that serves sends all the while.
    fn wait(&mut self, time: Duration) {
        let end = self.world.now + time;
        while let Some(at) = self.world.machine.wake_at().filter(|at| *at < end) {
            self.world.now = at.max(self.world.now);
            self.on(WorkerEvent::Alive);
            self.on(Event::Tick);
        }
        self.world.now = end;
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..4_u64).prop_map(|finish| Step::Restart { finish }),
        8 => Just(Step::GetOn),
        2 => Just(Step::Crash),
        1 => Just(Step::Fail),
        3 => (0..70_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// One process at a time, and each restart ends once: with a worker that serves, or a reason.
    #[test]
    fn every_restart_ends_once_with_a_worker_that_serves_or_a_reason(
        steps in vec(step(), 0..60), drained in any::<bool>(),
    ) {
        let mut simulation = Simulation::new();
        for step in steps {
            simulation.step(step);
        }
        if drained {
            simulation.step(Step::Drain);
            prop_assert_eq!(simulation.asked, 0);
        }
        // No more accidents: it is over soon.
        for _ in 0..10 {
            simulation.step(Step::GetOn);
        }
        prop_assert_eq!((simulation.asked, simulation.stopped), (0, drained));
        prop_assert_eq!(simulation.world.shown() == WorkerState::Ready, !drained);
    }

    /// However many there are, and whatever they interrupt.
    #[test]
    fn restarts_alone_never_delay_a_start(
        steps in vec(prop_oneof![(0..4_u64).prop_map(|finish| Step::Restart { finish }), Just(Step::GetOn)], 0..200),
    ) {
        let mut simulation = Simulation::new();
        for step in steps {
            simulation.step(step);
            prop_assert!(simulation.process || simulation.world.wait().is_zero());
        }
        while simulation.world.shown() != WorkerState::Ready {
            simulation.step(Step::GetOn);
        }
        simulation.step(Step::Crash);
        prop_assert_eq!(simulation.world.wait(), Duration::ZERO, "it is the first death");
    }
}
