#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const WIDE: Bounds = Bounds { requests: 10_000, tokens: u64::MAX };

fn caller(number: u8) -> Caller {
    Caller { key: Some(format!("key {number}").into()) }
}

/// Lets something wait for which there is room.
fn push<T>(queue: &mut FairQueue<T>, who: u8, priority: i32, tokens: u64, item: T) -> Ticket
where
    T: std::fmt::Debug,
{
    match queue.push(caller(who), Priority(priority), tokens, item) {
        Pushed::Waits(ticket, evicted) if evicted.is_empty() => ticket,
        other => panic!("{other:?}"),
    }
}

fn drain_in_order<T>(queue: &mut FairQueue<T>) -> Vec<T> {
    std::iter::from_fn(|| queue.pop()).collect()
}

#[test]
fn equals_are_served_in_order_of_arrival() {
    let mut queue = FairQueue::new(WIDE);
    for n in 0..100 {
        push(&mut queue, 0, 0, 1 + n % 7, n);
    }
    assert_eq!(drain_in_order(&mut queue), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_crowd_of_one_caller_does_not_keep_another_waiting() {
    let mut queue = FairQueue::new(WIDE);
    for n in 0..50 {
        push(&mut queue, 0, 0, 100, n);
    }
    push(&mut queue, 1, 0, 100, 1000);
    let order = drain_in_order(&mut queue);
    assert!(order.iter().position(|n| *n == 1000).unwrap() <= 1, "{order:?}");
}

#[test]
fn shares_are_of_work_and_not_of_requests() {
    let mut queue = FairQueue::new(WIDE);
    for n in 0..400 {
        push(&mut queue, 0, 0, 100, (0, 100));
        if n < 100 {
            push(&mut queue, 1, 0, 400, (1, 400));
        }
    }
    let mut work = [0, 0];
    for _ in 0..250 {
        let (who, tokens): (usize, u64) = queue.pop().unwrap();
        work[who] += tokens;
    }
    assert!(work[0].abs_diff(work[1]) <= 400, "{work:?}");
}

#[test]
fn who_was_away_neither_owes_nor_has_saved_anything() {
    let mut queue = FairQueue::new(WIDE);
    for n in 0..100 {
        push(&mut queue, 0, 0, 10, n);
    }
    (0..50).for_each(|_| assert!(queue.pop().is_some()));
    for n in 1000..1100 {
        push(&mut queue, 1, 0, 10, n);
    }
    let order: Vec<_> = (0..50).map(|_| queue.pop().unwrap()).collect();
    let late = order.iter().filter(|n| **n >= 1000).count();
    assert!((24..=26).contains(&late), "{late}");
}

#[test]
fn a_places_work_counts_also_if_nobody_had_to_wait_for_it() {
    let mut queue = FairQueue::new(WIDE);
    (0..10).for_each(|_| queue.pass(&caller(0), 10));
    for n in 0..5 {
        push(&mut queue, 0, 0, 10, n);
        push(&mut queue, 1, 0, 10, 100 + n);
    }
    assert_eq!(queue.pop(), Some(100), "the other one had a place already");
}

#[test]
fn what_is_urgent_goes_first() {
    let mut queue = FairQueue::new(WIDE);
    for (n, priority) in [(0, 1), (1, 0), (2, 5), (3, -1), (4, -1), (5, 0)] {
        push(&mut queue, 0, priority, 10, n);
    }
    push(&mut queue, 1, -1, 10, 6);
    let order = drain_in_order(&mut queue);
    assert_eq!(order, [3, 6, 4, 1, 5, 0, 2]);
}

#[test]
fn calling_everything_urgent_gives_a_head_start_and_no_larger_share() {
    let mut queue = FairQueue::new(WIDE);
    let tokens = HEAD_START / 8;
    for _ in 0..1000 {
        push(&mut queue, 0, -100, tokens, 0);
        push(&mut queue, 1, 0, tokens, 1);
    }
    let mut served = [0u64, 0];
    for _ in 0..1000 {
        served[queue.pop().unwrap()] += tokens;
    }
    let ahead = served[0] - served[1];
    let most = HEAD_START * MAX_LEVELS as u64;
    assert!((most - tokens..=most + tokens).contains(&ahead), "{ahead} of {most}");
}

#[test]
fn a_full_queue_turns_away_and_takes_from_the_greedy() {
    let mut queue = FairQueue::new(Bounds { requests: 4, tokens: u64::MAX });
    for n in 0..4 {
        push(&mut queue, 0, if n == 1 { 1 } else { 0 }, 10, n);
    }
    assert_eq!(queue.push(caller(0), Priority(-9), 10, 9), Pushed::Full(Bound::Requests));
    // Its least urgent one, then its latest, until both have as much.
    for (n, loses) in [(10, 1), (11, 3)] {
        let Pushed::Waits(_, evicted) = queue.push(caller(1), Priority(0), 10, n) else { panic!() };
        assert_eq!(evicted, [(loses, Bound::Requests)]);
    }
    assert_eq!(queue.push(caller(1), Priority(0), 10, 12), Pushed::Full(Bound::Requests));
    assert_eq!(queue.waiting(), 4);
}

#[test]
fn work_is_bounded_and_one_request_may_always_wait() {
    let mut queue = FairQueue::new(Bounds { requests: 10, tokens: 100 });
    let large = push(&mut queue, 0, 0, 1000, 0);
    assert_eq!(queue.push(caller(0), Priority(0), 1, 1), Pushed::Full(Bound::Tokens));
    queue.remove(&large).unwrap();
    for n in 0..4 {
        push(&mut queue, 0, 0, 25, n);
    }
    assert_eq!(queue.push(caller(1), Priority(0), 60, 9), Pushed::Full(Bound::Tokens), "more than its share");
    let Pushed::Waits(_, evicted) = queue.push(caller(1), Priority(0), 30, 9) else { panic!() };
    assert_eq!(evicted, [3, 2].map(|item| (item, Bound::Tokens)));
    assert_eq!(queue.tokens(), 80);
}

#[test]
fn callers_who_are_away_are_forgotten() {
    let mut queue = FairQueue::<()>::new(WIDE);
    for n in 0..3 * MAX_IDLE {
        queue.pass(&Caller { key: Some(n.to_string().into()) }, 10);
        assert!(queue.flows.len() <= MAX_IDLE + 1);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push { who: u8, priority: i32, tokens: u64 },
    Pass { who: u8, tokens: u64 },
    Pop,
    Leave(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4u8, -6..6i32, 0..50u64)
            .prop_map(|(who, priority, tokens)| Step::Push { who, priority, tokens }),
        1 => (0..4u8, 0..50u64).prop_map(|(who, tokens)| Step::Pass { who, tokens }),
        2 => Just(Step::Pop),
        2 => any::<usize>().prop_map(Step::Leave),
    ]
}

proptest! {
    /// Nothing is lost or served twice, the bounds hold, and the sums are right.
    #[test]
    fn every_request_leaves_once(steps in prop::collection::vec(step(), 0..300)) {
        let bounds = Bounds { requests: 12, tokens: 200 };
        let mut queue = FairQueue::new(bounds);
        let mut inside: Vec<(u64, Ticket)> = Vec::new();
        for (item, step) in (0..).zip(steps) {
            match step {
                Step::Push { who, priority, tokens } => {
                    let before = inside.len();
                    match queue.push(caller(who), Priority(priority), tokens, item) {
                        Pushed::Waits(ticket, evicted) => {
                            inside.retain(|(item, _)| evicted.iter().all(|(gone, _)| gone != item));
                            prop_assert_eq!(inside.len() + evicted.len(), before);
                            inside.push((item, ticket));
                        }
                        Pushed::Full(Bound::Requests) => prop_assert_eq!(before, bounds.requests),
                        Pushed::Full(Bound::Tokens) => {
                            prop_assert!(queue.tokens() + tokens.max(1) > bounds.tokens);
                        }
                    }
                }
                Step::Pass { who, tokens } => queue.pass(&caller(who), tokens),
                Step::Pop => {
                    let popped = queue.pop();
                    prop_assert_eq!(popped.is_none(), inside.is_empty());
                    if let Some(popped) = popped {
                        let at = inside.iter().position(|(item, _)| *item == popped);
                        let (_, ticket) = inside.swap_remove(at.unwrap());
                        prop_assert_eq!(queue.remove(&ticket), None);
                    }
                }
                Step::Leave(at) => {
                    if !inside.is_empty() {
                        let (item, ticket) = inside.swap_remove(at % inside.len());
                        prop_assert_eq!(queue.remove(&ticket), Some(item));
                        prop_assert_eq!(queue.remove(&ticket), None);
                    }
                }
            }
            prop_assert_eq!(queue.waiting(), inside.len());
            prop_assert!(queue.waiting() <= bounds.requests);
            prop_assert!(queue.tokens() <= bounds.tokens || queue.waiting() == 1);
            let sum: u64 = queue.flows.values().map(|flow| flow.tokens).sum();
            prop_assert_eq!(queue.tokens(), sum);
            let entries: usize = queue.flows.values().map(|flow| flow.entries.len()).sum();
            let arrivals: usize = queue.flows.values().map(|flow| flow.arrivals.len()).sum();
            prop_assert_eq!((entries, arrivals), (inside.len(), inside.len()));
        }
        let mut rest: BTreeSet<_> = inside.into_iter().map(|(item, _)| item).collect();
        for item in drain_in_order(&mut queue) {
            prop_assert!(rest.remove(&item));
        }
        prop_assert!(rest.is_empty());
    }

    /// Those who come and go without being served change nothing for the others.
    #[test]
    fn who_leaves_leaves_no_trace(
        steps in prop::collection::vec((0..3u8, -3..3i32, 1..50u64, any::<bool>()), 1..60),
    ) {
        let mut with = FairQueue::new(WIDE);
        let mut without = FairQueue::new(WIDE);
        let mut leavers = Vec::new();
        for (item, (who, priority, tokens, leaves)) in steps.into_iter().enumerate() {
            let ticket = push(&mut with, who, priority, tokens, item);
            if leaves {
                leavers.push(ticket);
            } else {
                push(&mut without, who, priority, tokens, item);
            }
        }
        leavers.iter().for_each(|ticket| assert!(with.remove(ticket).is_some()));
        prop_assert_eq!((with.waiting(), with.tokens()), (without.waiting(), without.tokens()));
        prop_assert_eq!(with.flows.len(), without.flows.len());
        prop_assert_eq!(drain_in_order(&mut with), drain_in_order(&mut without));
    }

    /// As long as two callers wait, neither gets more work than the other, but for one request and the head start.
    #[test]
    fn two_callers_who_wait_get_equal_shares(
        costs in prop::collection::vec((1..500u64, 1..500u64), 20..100),
        priorities in (-2..=2i32, -2..=2i32),
    ) {
        let mut queue = FairQueue::new(WIDE);
        for (a, b) in &costs {
            push(&mut queue, 0, priorities.0, *a, (0, *a));
            push(&mut queue, 1, priorities.1, *b, (1, *b));
        }
        let bound = 500 + HEAD_START * u64::from(priorities.0.abs_diff(priorities.1));
        let mut waiting = [costs.len(); 2];
        let mut work = [0u64; 2];
        while waiting.iter().all(|n| *n > 0) {
            let (who, tokens): (usize, u64) = queue.pop().unwrap();
            waiting[who] -= 1;
            work[who] += tokens;
            prop_assert!(work[0].abs_diff(work[1]) <= bound, "{work:?}");
        }
    }

    /// However many urgent requests keep coming, from the same caller or from others, the others get their turn.
    #[test]
    fn nothing_starves(
        low in 1..5i32,
        others in 1..5u8,
        older in 0..10usize,
        tokens in 500..5000u64,
    ) {
        let mut queue = FairQueue::new(WIDE);
        for n in 0..older {
            push(&mut queue, 0, 0, tokens, n);
        }
        push(&mut queue, 0, low, tokens, usize::MAX);
        let flood = |queue: &mut FairQueue<usize>| {
            for who in 0..=others {
                push(queue, who, -5, tokens, usize::MAX - 1);
                push(queue, who, -5, tokens, usize::MAX - 1);
            }
        };
        // Of its caller's turns, every eighth goes to the one that waits longest. Others are ahead of its caller by
        // their head start at most, and then each has one turn for one of its.
        let own = u64::from(OLDEST_EVERY) * (older as u64 + 1);
        let head_start = 2 * MAX_LEVELS as u64 * HEAD_START / tokens + 2;
        let bound = (own + head_start) * u64::from(others + 1);
        for turn in 0.. {
            prop_assert!(turn <= bound, "not served in {bound} turns");
            if queue.waiting() < 2000 {
                flood(&mut queue);
            }
            if queue.pop() == Some(usize::MAX) {
                break;
            }
        }
    }
}
