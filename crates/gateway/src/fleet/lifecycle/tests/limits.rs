//! Workers that are frozen, and workers that only look like it.

use super::*;

#[test]
fn a_worker_all_of_whose_sequences_are_paused_is_not_frozen() {
    let beat = |runnable, paused| {
        WorkerEvent::Heartbeat(Heartbeat { step: 7, runnable, paused, waiting: 3, ..Heartbeat::default() })
    };
    let mut world = World::ready();
    for _ in 0..100 {
        world.pass(SECOND);
        assert_eq!(world.on(beat(0, 5)), [], "its clients do not read");
    }
    // One reads again: the limit runs from here.
    for _ in 0..20 {
        assert_eq!(world.on(beat(1, 4)), []);
        world.pass(SECOND);
    }
    world.on(beat(1, 4));
    assert!(killed(&world.on(Event::Tick)).starts_with("it froze: no step in 20s"));
}

fn progress(progress: u64, runnable: u32) -> WorkerEvent {
    WorkerEvent::Heartbeat(Heartbeat { progress: Some(progress), runnable, ..Heartbeat::default() })
}

#[test]
fn kernels_that_stand_still_within_a_step_are_noticed_within_the_heartbeat_s_limit() {
    let half = SECOND / 2;
    let mut world = World::ready();
    // A step may take long.
    for done in 0..30 {
        assert_eq!(world.on(progress(done, 1)), []);
        world.pass(half);
    }
    // A moment after this heartbeat they stop.
    assert_eq!(world.on(progress(30, 1)), []);
    let stopped = world.now;
    loop {
        world.pass(half);
        assert_eq!(world.on(progress(30, 1)), []);
        let actions = world.on(Event::Tick);
        if !actions.is_empty() {
            assert_eq!(killed(&actions), "it froze: its kernels did nothing for 2s of a step");
            break;
        }
    }
    assert!(world.now - stopped <= 3 * SECOND, "{:?}", world.now - stopped);
}

#[test]
fn kernels_without_work_may_stand_still() {
    let mut world = World::ready();
    for runnable in [1, 0, 0, 1, 1, 0, 1].into_iter().cycle().take(100) {
        assert_eq!(world.on(progress(7, runnable)), []);
        world.pass(SECOND);
        assert_eq!(world.on(Event::Tick), []);
    }
}

#[test]
fn kernels_count_as_standing_only_for_as_long_as_heartbeats_say_so() {
    let mut world = World::ready();
    world.on(progress(7, 1));
    // The worker, but not the gateway, is suspended.
    world.pass(SECOND * 29 / 10);
    world.on(progress(7, 1));
    world.pass(SECOND / 10);
    world.on(progress(8, 1));
    assert_eq!(world.on(Event::Tick), [], "it has gone on");
}

#[test]
fn a_suspended_gateway_does_not_take_kernels_for_frozen() {
    let mut world = World::ready();
    world.on(progress(7, 1));
    world.suspend(1000 * SECOND);
    for event in [progress(7, 1).into(), Event::Tick, progress(7, 1).into(), Event::Tick] {
        assert_eq!(world.on(event), []);
    }
}

fn preparing(millis: u64) -> WorkerEvent {
    WorkerEvent::Heartbeat(Heartbeat { oldest_preparation_millis: millis, ..Heartbeat::default() })
}

#[test]
fn a_worker_that_prepares_one_prompt_for_too_long_is_killed() {
    let mut world = World::ready();
    for second in 0..20 {
        assert_eq!(world.on(preparing(second * 1000 + 300)), []);
        world.pass(SECOND);
    }
    world.on(preparing(20_300));
    assert_eq!(killed(&world.on(Event::Tick)), "it froze: one prompt was in preparation for 20s");
}

#[test]
fn a_worker_that_prepares_many_prompts_is_not_killed() {
    let mut world = World::ready();
    for second in 0..200 {
        // Each takes 15 seconds, and another is always under way.
        world.on(preparing(1 + second % 15 * 1000));
        world.pass(SECOND);
    }
    // Each later one looks older than the one before did, but none takes long.
    for second in 0..100 {
        world.on(preparing(1 + second));
        world.pass(SECOND);
    }
    world.on(preparing(0));
    assert_eq!(world.wait(), 3 * SECOND);
}

#[test]
fn an_age_that_jumps_is_not_believed_at_once() {
    let mut world = World::ready();
    world.on(preparing(100));
    world.pass(SECOND);
    // The worker was suspended, and its clock was not.
    assert_eq!(world.on(preparing(3_600_000)), []);
    assert_eq!(world.on(Event::Tick), []);
    world.pass(SECOND);
    assert_eq!(world.on(preparing(0)), []);
}

#[test]
fn a_suspended_gateway_gives_every_state_its_whole_time_again() {
    let limits = [
        (&[][..], 5 * SECOND),
        (&[SPAWNED][..], 5 * SECOND),
        (&[SPAWNED, JOINED], 60 * SECOND),
        (&[SPAWNED, JOINED, loaded()], 3 * SECOND),
        (&[SPAWNED, JOINED, loaded(), Event::Drain], 3 * SECOND),
        (&[SPAWNED, JOINED, loaded(), Event::Drain, Event::Idle], 10 * SECOND),
    ];
    for (events, limit) in limits {
        let mut world = World::new();
        for event in events {
            world.on(event.clone());
        }
        let state = world.shown();
        world.pass(limit - SECOND / 2);
        world.suspend(1000 * SECOND);
        assert_eq!(world.on(Event::Tick), [], "{state:?}");
        assert_eq!((world.shown(), world.wait()), (state, limit));
        assert!(matches!(world.tick()[..], [Action::Kill { .. }]), "{state:?}");
    }
}

#[test]
fn what_a_worker_sent_while_the_gateway_was_suspended_does_not_count_against_it() {
    let beat = |step, oldest_preparation_millis| {
        WorkerEvent::Heartbeat(Heartbeat {
            step,
            runnable: 1,
            oldest_preparation_millis,
            ..Heartbeat::default()
        })
    };
    let mut world = World::ready();
    world.on(beat(7, 1));
    world.pass(SECOND);
    world.on(beat(7, 1001));
    world.suspend(1000 * SECOND);
    // Whichever comes first: the tick, or what waits in the ring.
    for event in [beat(7, 1_001_000).into(), Event::Tick, beat(7, 1_001_500).into(), Event::Tick] {
        assert_eq!(world.on(event), []);
    }
    // If it does not go on now, it is frozen.
    for second in 0..20 {
        assert_eq!(world.on(beat(7, 0)), [], "{second}");
        world.pass(SECOND);
    }
    world.on(beat(7, 0));
    assert!(killed(&world.on(Event::Tick)).starts_with("it froze: no step"));
}

#[test]
fn a_tick_that_is_a_little_late_changes_nothing() {
    let mut world = World::ready();
    while world.shown() == WorkerState::Ready {
        world.now = world.machine.wake_at().unwrap_or(world.now) + Duration::from_millis(99);
        world.on(Event::Tick);
    }
    assert!(world.now - world.began < 4 * SECOND);
}

#[test]
fn short_limits_are_checked_more_often() {
    let mut world = World::new();
    world.machine.policy.heartbeat_timeout = SECOND;
    world.start();
    world.pass(SECOND / 2);
    world.on(WorkerEvent::Alive);
    // Less than the limit itself: only the ticks show it.
    world.suspend(SECOND);
    assert_eq!(world.on(Event::Tick), []);
    assert_eq!(world.wait(), SECOND);
}
