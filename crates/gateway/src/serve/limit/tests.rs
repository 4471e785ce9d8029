#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const SETTINGS: LimitSettings =
    LimitSettings { min: 5, max: 50, start: 50, first_token_target: Duration::from_secs(2) };

/// A limit and its clock, which goes on by half a second with each tick.
struct World {
    limit: AdaptiveLimit,
    now: Instant,
}

impl World {
    fn new(settings: LimitSettings) -> Self {
        let now = Instant::now();
        Self { limit: AdaptiveLimit::new(settings, now), now }
    }

    /// First tokens after `seconds`, of prompts of ten tokens, while so many run.
    fn first_tokens(&mut self, count: usize, running: usize, seconds: f64) {
        for _ in 0..count {
            self.limit.first_token(&FirstToken {
                admitted: self.now,
                running,
                took: Duration::from_secs_f64(seconds),
                computed_tokens: 10,
            });
        }
    }

    fn tick(&mut self, load: Load) -> Option<Cause> {
        self.now += Duration::from_millis(500);
        self.limit.tick(&load, self.now)
    }

    /// The causes of the next ticks.
    fn ticks(&mut self, count: usize, load: Load) -> Vec<Cause> {
        (0..count).filter_map(|_| self.tick(load)).collect()
    }
}

fn running(running: usize) -> Load {
    Load { running, ..Load::default() }
}

fn under(running: usize, workers: WorkersLoad) -> Load {
    Load { running, workers, ..Load::default() }
}

#[test]
fn an_idle_machine_changes_nothing() {
    let mut world = World::new(SETTINGS);
    // Whatever is held or taken while nobody runs is not the streams' doing.
    let full = WorkersLoad { kv: 1.0, queued: 9, memory: 1.0 };
    assert_eq!(world.ticks(1000, under(0, full)), []);
    assert_eq!(world.ticks(1000, running(3)), []);
    assert_eq!(world.limit.get(), 50);
}

#[test]
fn late_first_tokens_halve_it_at_once_and_not_below_the_least() {
    let mut world = World::new(SETTINGS);
    world.tick(running(50));
    world.first_tokens(8, 50, 20.0);
    assert_eq!(world.tick(running(50)), Some(Cause::FirstToken));
    assert_eq!(world.limit.get(), 25);
    // It waits until no more run than it allows, and for news from then.
    assert_eq!(world.ticks(20, running(40)), []);
    assert_eq!(world.ticks(20, running(25)), []);
    for expected in [12, 6, 5] {
        world.first_tokens(8, 25, 20.0);
        assert_eq!(world.ticks(4, running(expected)), [Cause::FirstToken]);
        assert_eq!(world.limit.get(), expected);
    }
    world.first_tokens(8, 50, 20.0);
    assert_eq!(world.ticks(10, running(5)), []);
}

#[test]
fn it_sinks_in_proportion_from_what_really_ran() {
    let mut world = World::new(SETTINGS);
    world.tick(running(20));
    world.first_tokens(10, 20, 2.5);
    assert_eq!(world.tick(running(18)), Some(Cause::FirstToken));
    assert_eq!(world.limit.get(), 16);
}

#[test]
fn what_a_prompt_takes_alone_does_not_count() {
    let mut world = World::new(SETTINGS);
    // Four seconds alone: that is how long these prompts are.
    world.first_tokens(50, 1, 4.0);
    assert_eq!(world.ticks(10, running(5)), []);
    world.first_tokens(8, 20, 5.9);
    assert_eq!(world.ticks(4, running(20)), []);
    world.first_tokens(64, 20, 7.0);
    assert_eq!(world.tick(running(20)), Some(Cause::FirstToken));
}

#[test]
fn a_late_one_among_many_is_no_pressure() {
    let mut world = World::new(SETTINGS);
    for _ in 0..20 {
        world.first_tokens(5, 50, 0.1);
        world.first_tokens(2, 50, 60.0);
        assert_eq!(world.tick(running(50)), None);
    }
    // But if the latest are late, nobody waits until most are.
    world.first_tokens(8, 50, 60.0);
    assert_eq!(world.tick(running(50)), Some(Cause::FirstToken));
}

#[test]
fn scarce_memory_and_busy_workers_lower_it() {
    let none = WorkersLoad::default();
    for (load, ticks, cause, expected) in [
        (WorkersLoad { kv: 0.95, ..none }, 2, Cause::Kv, 26),
        (WorkersLoad { kv: 1.0, ..none }, 2, Cause::Kv, 20),
        (WorkersLoad { memory: 0.96, ..none }, 2, Cause::Memory, 26),
        (WorkersLoad { queued: 8, ..none }, 4, Cause::WorkerQueue, 32),
    ] {
        let mut world = World::new(SETTINGS);
        assert_eq!(world.ticks(ticks, under(40, load)), [cause]);
        assert_eq!(world.limit.get(), expected, "{load:?}");
    }
}

#[test]
fn a_queue_between_two_steps_of_a_worker_is_none() {
    let mut world = World::new(SETTINGS);
    for n in 0..100 {
        let workers = WorkersLoad { queued: if n % 3 == 0 { 0 } else { 20 }, ..WorkersLoad::default() };
        assert_eq!(world.tick(under(50, workers)), None);
    }
}

#[test]
fn it_recovers_slowly_and_only_if_it_is_reached() {
    let mut world = World::new(SETTINGS);
    let full = under(40, WorkersLoad { kv: 1.0, ..WorkersLoad::default() });
    assert_eq!(world.ticks(2, full), [Cause::Kv]);
    assert_eq!(world.limit.get(), 20);
    world.ticks(1000, running(19));
    assert_eq!(world.limit.get(), 20, "nobody needs more");
    let before = world.now;
    while world.limit.get() < 49 {
        let limit = world.limit.get();
        world.tick(running(limit));
        assert!(world.limit.get() - limit <= 2);
    }
    let took = (world.now - before).as_secs();
    assert!((15..60).contains(&took), "{took} s");
}

#[test]
fn it_stays_below_a_limit_that_was_too_high() {
    let mut world = World::new(LimitSettings { start: 20, ..SETTINGS });
    let full = under(20, WorkersLoad { kv: 0.91, ..WorkersLoad::default() });
    assert_eq!(world.ticks(2, full), [Cause::Kv]);
    let found = world.now;
    let mut until = |seconds: u64| {
        while world.now < found + Duration::from_secs(seconds) {
            let limit = world.limit.get();
            world.tick(running(limit));
        }
        world.limit.get()
    };
    assert_eq!(until(4), 18);
    assert_eq!(until(59), 19);
    assert!(until(70) > 20);
}

#[test]
fn requests_without_a_token_yet_are_no_sign_that_there_is_room() {
    let mut world = World::new(LimitSettings { start: 10, ..SETTINGS });
    world.ticks(100, Load { unstarted: 10, ..running(10) });
    assert_eq!(world.limit.get(), 10);
    world.first_tokens(10, 10, 0.1);
    world.ticks(2, Load { unstarted: 5, ..running(10) });
    assert_eq!(world.limit.get(), 11);
}

#[test]
fn new_settings_hold_at_once() {
    let mut world = World::new(SETTINGS);
    world.limit.set_settings(LimitSettings { max: 10, ..SETTINGS }, world.now);
    assert_eq!(world.limit.get(), 10);
    world.limit.set_settings(LimitSettings { min: 20, ..SETTINGS }, world.now);
    assert_eq!(world.limit.get(), 20);
}

proptest! {
    /// Whatever is reported, the limit stays in its range, sinks to no less than half of what ran, and rises slowly.
    #[test]
    fn it_stays_in_its_range_and_never_leaps(
        (min, range, start) in (1..20usize, 0..100usize, 0..200usize),
        steps in prop::collection::vec(
            ((0..200usize, 0..20usize), 0.0..1.2f64, 0..100usize, 0.0..1.2f64, (0..10usize, 0.0..30.0f64)),
            1..100,
        ),
    ) {
        let max = min + range;
        let mut world = World::new(LimitSettings { min, max, start, ..SETTINGS });
        for ((running, waiting), kv, queued, memory, (samples, seconds)) in steps {
            let before = world.limit.get();
            world.first_tokens(samples, running, seconds);
            let workers = WorkersLoad { kv, queued, memory };
            let cause = world.tick(Load { running, unstarted: running / 2, waiting, workers });
            let after = world.limit.get();
            prop_assert!((min..=max).contains(&after));
            prop_assert_eq!(cause.is_some(), after < before);
            prop_assert!(after <= before + (before / 20).max(1));
            prop_assert!(running > 0 || after == before);
        }
    }
}
