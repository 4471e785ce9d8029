#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds { requests: 6, tokens: 1000 };

fn gate(streams: usize) -> Gate<usize> {
    let settings = LimitSettings {
        min: streams,
        max: streams,
        start: streams,
        first_token_target: Duration::from_secs(2),
    };
    Gate::new(BOUNDS, settings, Instant::now())
}

fn arrival(who: u8, level: i32, places: usize) -> Arrival {
    let caller = Caller { key: Some(who.to_string().into()) };
    Arrival { caller, priority: Priority(level), tokens: 10, places }
}

#[derive(Clone, Debug)]
enum Step {
    Arrive { who: u8, level: i32, places: usize },
    Token(usize),
    Finish(usize),
    Leave(usize),
    Vanish,
    Limit(usize),
    Tick { kv: f64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..3u8, -2..3i32, prop_oneof![3 => Just(1), 1 => 1..5usize])
            .prop_map(|(who, level, places)| Step::Arrive { who, level, places }),
        2 => any::<usize>().prop_map(Step::Token),
        3 => any::<usize>().prop_map(Step::Finish),
        1 => any::<usize>().prop_map(Step::Leave),
        1 => Just(Step::Vanish),
        1 => (1..8usize).prop_map(Step::Limit),
        2 => (0.0..1.1f64).prop_map(|kv| Step::Tick { kv }),
    ]
}

proptest! {
    /// Every place is with one stream or free, however requests come, leave and end, and however the limit moves.
    #[test]
    fn places_are_neither_lost_nor_made(steps in prop::collection::vec(step(), 0..300)) {
        let mut gate = gate(3);
        let mut now = Instant::now();
        // Streams with whether they had a token, and those who wait.
        let mut runs: Vec<(Started, bool)> = Vec::new();
        let mut waits: Vec<(usize, Ticket)> = Vec::new();
        let mut at_limit = 3;
        for (n, step) in steps.into_iter().enumerate() {
            now += Duration::from_millis(300);
            let mut vanishes = false;
            match step {
                Step::Arrive { who, level, places } => match gate.arrive(arrival(who, level, places), n, now) {
                    Arrived::Runs(started) => {
                        prop_assert!(waits.is_empty(), "it overtook somebody");
                        prop_assert!(runs.len() + places <= gate.occupancy().limit || runs.is_empty());
                        runs.extend(vec![(started, false); places]);
                        at_limit = at_limit.max(places);
                    }
                    Arrived::Waits(ticket, evicted) => {
                        waits.retain(|(n, _)| evicted.iter().all(|(gone, _)| gone != n));
                        waits.push((n, ticket));
                    }
                    Arrived::Refused(_) => prop_assert_eq!(waits.len(), BOUNDS.requests),
                },
                Step::Token(at) if !runs.is_empty() => {
                    let at = at % runs.len();
                    let (started, had_token) = &mut runs[at];
                    if !std::mem::replace(had_token, true) {
                        gate.first_token(*started, 5, now);
                    }
                }
                Step::Finish(at) if !runs.is_empty() => {
                    let (_, had_token) = runs.swap_remove(at % runs.len());
                    gate.finish(had_token, now);
                }
                Step::Leave(at) if !waits.is_empty() => {
                    let (n, ticket) = waits.swap_remove(at % waits.len());
                    prop_assert_eq!(gate.leave(&ticket), Some(n));
                }
                Step::Vanish => vanishes = true,
                Step::Limit(max) => {
                    let target = Duration::from_secs(2);
                    let settings = LimitSettings { min: 1, max, start: max, first_token_target: target };
                    gate.set_settings(BOUNDS, settings, now);
                }
                Step::Tick { kv } => {
                    gate.tick(WorkersLoad { kv, ..WorkersLoad::default() }, now);
                }
                _ => {}
            }
            while let Some(Grant { waiter, started, places }) = gate.next(now) {
                prop_assert!(runs.len() + places <= gate.occupancy().limit || runs.is_empty());
                let at = waits.iter().position(|(waiting, _)| *waiting == waiter);
                let (_, ticket) = waits.swap_remove(at.unwrap());
                prop_assert_eq!(gate.leave(&ticket), None);
                if std::mem::take(&mut vanishes) {
                    gate.withdraw(places, now);
                } else {
                    runs.extend(vec![(started, false); places]);
                    // One that needs more than there are runs alone.
                    at_limit = at_limit.max(places);
                }
            }
            let occupancy = gate.occupancy();
            prop_assert_eq!((occupancy.running, occupancy.waiting), (runs.len(), waits.len()));
            prop_assert_eq!(gate.unstarted, runs.iter().filter(|(_, had_token)| !had_token).count());
            prop_assert!(occupancy.waiting <= BOUNDS.requests);
            let fits = gate.queue.peek().is_some_and(|waits| gate.has_room(waits.places));
            prop_assert!(!fits, "there are places for somebody who waits");
            // More than the limit run only after it sank.
            at_limit = occupancy.limit.max(at_limit.min(runs.len()));
            prop_assert!(runs.len() <= at_limit);
        }
        runs.iter().for_each(|(_, had_token)| gate.finish(*had_token, now));
        while let Some(grant) = gate.next(now) {
            (0..grant.places).for_each(|_| gate.finish(false, now));
        }
        prop_assert!(gate.is_idle());
        prop_assert_eq!(gate.unstarted, 0);
    }
}

#[test]
fn who_is_turned_away_is_told_when_a_place_is_likely() {
    let mut gate = gate(2);
    let start = Instant::now();
    let mut arrive = |n, now| gate.arrive(arrival(0, 0, 1), n, now);
    for n in 0..8 {
        assert!(!matches!(arrive(n, start), Arrived::Refused(_)));
    }
    assert!(matches!(arrive(8, start), Arrived::Refused(Bound::Requests)));
    for n in 1..=4 {
        let now = start + Duration::from_millis(250) * n;
        gate.finish(false, now);
        assert!(gate.next(now).is_some());
    }
    let now = start + Duration::from_secs(1);
    assert_eq!(gate.promise(now), Duration::from_millis(250));
    assert_eq!(gate.promise(now), Duration::from_millis(500));
}
