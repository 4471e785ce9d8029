#![allow(clippy::unwrap_used)]

mod queue;
mod streams;

use std::{pin::pin, time::Duration};

use futures_util::{FutureExt, future::join_all, poll};

use super::{places::MAX_IDLE_GATES, *};
use crate::{
    metrics::MetricRegistry,
    serve::{
        limit::WorkersLoad,
        rate_limit::{RateExceeded, RateUnit},
    },
};

/// With so many places, whatever the load.
fn admission(streams: usize, max_waiting: usize) -> Admission {
    of(StreamRegistry { max_waiting, ..StreamRegistry::of_streams(streams) })
}

fn of(settings: StreamRegistry) -> Admission {
    Admission::new(settings, AdmissionMetrics::register(&mut MetricRegistry::new()))
}

fn ask(key: &str, priority: Priority) -> Ask {
    Ask { caller: Caller { key: Some(key.into()) }, priority, ..Ask::from("m") }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Nobody runs or waits, and the metrics say so.
fn assert_empty(admission: &Admission) {
    let Occupancy { running, waiting, waiting_tokens, .. } = admission.occupancy("m").unwrap();
    assert_eq!((running, waiting, waiting_tokens), (0, 0, 0));
    let metrics = admission.metrics();
    assert_eq!((metrics.streams_open.get(), metrics.queue_length.get()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn waiters_get_permits_in_order_of_arrival() {
    let admission = admission(1, 2);
    let held = admission.admit("m").await.unwrap();
    let (mut first, mut second) = (pin!(admission.admit("m")), pin!(admission.admit("m")));
    assert!(poll!(&mut first).is_pending());
    assert!(poll!(&mut second).is_pending());
    drop(held);
    assert!(poll!(&mut second).is_pending());
    let first = first.now_or_never().unwrap().unwrap();
    assert!(poll!(&mut second).is_pending());
    drop(first);
    assert!(second.now_or_never().unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_urgent_and_those_with_less_go_first() {
    let admission = admission(1, 10);
    let held = admission.admit(ask("a", Priority::NORMAL)).await.unwrap();
    let mut waiting: Vec<_> =
        [("a", Priority::NORMAL), ("a", Priority::LOW), ("a", Priority::HIGH), ("b", Priority::NORMAL)]
            .map(|(key, priority)| Box::pin(admission.admit(ask(key, priority))))
            .into();
    for waiting in &mut waiting {
        assert!(poll!(waiting).is_pending());
    }
    let mut permit = held;
    for next in [2, 3, 0, 1] {
        drop(permit);
        permit = waiting[next].as_mut().now_or_never().expect("it is its turn").unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_in_time() {
    let admission = admission(1, 1);
    let held = admission.admit("m").await.unwrap();
    let began = now();
    let rejection = admission.admit("m").await.unwrap_err();
    assert!(matches!(rejection, Rejection::WaitedTooLong { waited, .. } if waited == seconds(30)));
    assert_eq!(now() - began, seconds(30));
    drop(held);
    assert_empty(&admission);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_refuses_what_waits() {
    let admission = admission(1, 1);
    let with = |deadline| Ask { deadline: Some(deadline), ..Ask::from("m") };
    assert_eq!(admission.admit(with(now())).await.unwrap_err(), Rejection::DeadlinePassed);
    let held = admission.admit(with(now() + seconds(5))).await.unwrap();
    assert_eq!(held.deadline(), Some(now() + seconds(5)));
    let began = now();
    assert_eq!(admission.admit(with(began + seconds(3))).await.unwrap_err(), Rejection::DeadlinePassed);
    assert_eq!(now() - began, seconds(3));
    // A place that comes in the same moment is given back.
    let mut late = pin!(admission.admit(with(now() + seconds(2))));
    assert!(poll!(&mut late).is_pending());
    tokio::time::advance(seconds(2)).await;
    drop(held);
    assert_eq!(late.await.unwrap_err(), Rejection::DeadlinePassed);
    assert_empty(&admission);
}

#[tokio::test(start_paused = true)]
async fn a_lower_limit_takes_effect_as_streams_end() {
    let admission = admission(3, 0);
    let with = |max: usize| StreamRegistry { max_waiting: 0, ..StreamRegistry::of_streams(max) };
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(admission.admit("m").await.unwrap());
    }
    admission.configure(with(1), RateLimits::default());
    held.truncate(1);
    assert!(admission.admit("m").await.is_err(), "two of three ended, and the limit is one");
    held.clear();
    held.push(admission.admit("m").await.unwrap());
    assert!(admission.admit("m").await.is_err());
    admission.configure(with(2), RateLimits::default());
    held.push(admission.admit("m").await.unwrap());
    assert!(admission.admit("m").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_higher_limit_lets_those_who_wait_in() {
    let admission = admission(1, 2);
    let _held = admission.admit("m").await.unwrap();
    let (mut first, mut second) = (pin!(admission.admit("m")), pin!(admission.admit("m")));
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    admission.configure(StreamRegistry::of_streams(2), RateLimits::default());
    let _first = first.now_or_never().unwrap().unwrap();
    assert!(poll!(&mut second).is_pending());
}

#[tokio::test(start_paused = true)]
async fn other_settings_hold_from_then_on_and_turn_nobody_away() {
    let admission = admission(2, 1);
    let [first, other] = [admission.admit("m").await.unwrap(), admission.admit("m").await.unwrap()];
    let mut waiter = Box::pin(admission.admit("m"));
    assert!(poll!(&mut waiter).is_pending());
    let settings =
        StreamRegistry { max_waiting: 3, wait_timeout: seconds(1), ..StreamRegistry::of_streams(1) };
    admission.configure(settings, RateLimits::default());
    assert_eq!((admission.occupancy("m").unwrap().limit, admission.wait_timeout()), (1, seconds(1)));
    let mut second = Box::pin(admission.admit("m"));
    assert!(poll!(&mut second).is_pending(), "more may wait");
    drop(first);
    assert!(poll!(&mut waiter).is_pending(), "one runs, and only one may");
    drop(other);
    let _waiter = waiter.now_or_never().unwrap().unwrap();
    admission.configure(StreamRegistry::of_streams(5), RateLimits::default());
    assert!(second.now_or_never().unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_workers_report_moves_the_limit_and_is_counted() {
    let mut registry = MetricRegistry::new();
    let settings = StreamRegistry { min_streams: 2, ..StreamRegistry::of_streams(20) };
    let admission = Admission::new(settings, AdmissionMetrics::register(&mut registry));
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(admission.admit("m").await.unwrap());
    }
    let full = WorkersLoad { kv: 1.0, ..WorkersLoad::default() };
    tokio::time::advance(seconds(2)).await;
    admission.places.tick(|_| Some(full));
    assert_eq!(admission.occupancy("m").unwrap().limit, 10);
    let text = registry.render().unwrap();
    assert!(text.contains("kr_admission_limit{model=\"m\"} 10\n"), "{text}");
    assert!(text.contains("kr_admission_limit_cuts_total{model=\"m\",cause=\"kv\"} 1\n"), "{text}");
    // Those that run go on; a model that is gone leaves when they have.
    admission.places.tick(|_| None);
    assert_eq!(admission.occupancy("m").unwrap().running, 20);
    held.clear();
    admission.places.tick(|_| None);
    assert_eq!(admission.occupancy("m"), None);
    assert!(!registry.render().unwrap().contains("model=\"m\""));
}

#[tokio::test(start_paused = true)]
async fn late_first_tokens_lower_the_limit() {
    let admission = of(StreamRegistry { min_streams: 2, ..StreamRegistry::of_streams(20) });
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(admission.admit("m").await.unwrap());
    }
    tokio::time::advance(seconds(20)).await;
    for permit in &mut held {
        permit.count_prompt(10);
        permit.count_answer(0);
        permit.count_answer(1);
        permit.count_answer(1);
    }
    admission.places.tick(|_| Some(WorkersLoad::default()));
    assert_eq!(admission.occupancy("m").unwrap().limit, 10);
}

#[tokio::test(start_paused = true)]
async fn closing_turns_away_waiters_and_newcomers() {
    let admission = admission(1, 1);
    let held = admission.admit("m").await.unwrap();
    let mut waiter = pin!(admission.admit("m"));
    assert!(poll!(&mut waiter).is_pending());
    assert!(!admission.is_closed());
    admission.close();
    assert!(admission.is_closed());
    assert_eq!(waiter.await.unwrap_err(), Rejection::ShuttingDown);
    assert_eq!(admission.admit("m").await.unwrap_err(), Rejection::ShuttingDown);
    drop(held);
    assert_eq!(admission.admit("m").await.unwrap_err(), Rejection::ShuttingDown);
    assert_empty(&admission);
}

#[tokio::test(start_paused = true)]
async fn one_models_clients_do_not_keep_anothers_waiting() {
    let admission = admission(1, 1);
    let _held = admission.admit("m").await.unwrap();
    let mut waiter = pin!(admission.admit("m"));
    assert!(poll!(&mut waiter).is_pending());
    assert!(admission.admit("m").now_or_never().unwrap().is_err(), "its queue is full");
    assert!(admission.admit("other").now_or_never().unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn models_that_nobody_asks_for_are_forgotten() {
    let admission = admission(1, 0);
    let held = admission.admit("held").await.unwrap();
    for n in 0..3 * MAX_IDLE_GATES {
        admission.admit(&*format!("m{n}")).await.unwrap();
        assert!(admission.places.gates() <= MAX_IDLE_GATES);
    }
    assert!(admission.admit("held").await.is_err(), "one that is used is kept");
    drop(held);
    assert!(admission.admit("held").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn rates_are_of_a_caller_and_what_was_not_used_is_given_back() {
    let admission = admission(10, 10);
    let settings = StreamRegistry::of_streams(10);
    let limits = RateLimits { requests_per_minute: None, tokens_per_minute: Some(600) };
    admission.configure(settings, limits);
    let ask = |key: &str| Ask { tokens: 600, ..ask(key, Priority::NORMAL) };
    let mut first = admission.admit(ask("a")).await.unwrap();
    let exceeded = RateExceeded { unit: RateUnit::Tokens, per_minute: 600, retry_after: seconds(60) };
    assert_eq!(admission.admit(ask("a")).await.unwrap_err(), Rejection::RateLimited(exceeded));
    drop(admission.admit(ask("b")).await.unwrap());
    first.count_prompt(100);
    first.count_answer(200);
    drop(first);
    let rejection = admission.admit(ask("a")).await.unwrap_err();
    assert_eq!(rejection.retry_after(), Some(seconds(30)), "half of it was used");
    tokio::time::advance(seconds(30)).await;
    drop(admission.admit(ask("a")).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_turned_away_costs_nothing_of_its_rate() {
    let admission = admission(1, 0);
    let settings = StreamRegistry { max_waiting: 0, ..StreamRegistry::of_streams(1) };
    admission.configure(settings, RateLimits { requests_per_minute: Some(2), tokens_per_minute: Some(1000) });
    let held = admission.admit("m").await.unwrap();
    for _ in 0..10 {
        assert!(matches!(admission.admit("m").await, Err(Rejection::QueueFull { .. })));
    }
    drop(held);
    drop(admission.admit("m").await.unwrap());
    assert!(matches!(admission.admit("m").await, Err(Rejection::RateLimited(_))));
}

/// Three times as many come as can be served: each is served or told when to come back, and whoever does is served.
#[tokio::test(start_paused = true)]
async fn who_comes_back_when_told_is_served_although_three_times_as_many_come() {
    const STREAMS: usize = 4;
    let admission = admission(STREAMS, 8);
    // Four streams of a second each: four a second. Twelve a second come, for ten seconds.
    let clients = (0..120u64).map(|n| {
        let admission = admission.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(1000 * n / 12)).await;
            let mut tries = 1;
            let began = now();
            loop {
                match admission.admit("m").await {
                    Ok(mut permit) => {
                        permit.count_prompt(1);
                        tokio::time::sleep(Duration::from_millis(500 + 100 * (n % 11))).await;
                        permit.count_answer(1);
                        return (tries, now() - began);
                    }
                    Err(rejection @ Rejection::QueueFull { .. }) => {
                        tries += 1;
                        tokio::time::sleep(rejection.retry_after().unwrap()).await;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        })
    });
    let began = now();
    let served = join_all(clients).await;
    let tries = served.iter().map(|client| client.as_ref().unwrap().0).max().unwrap();
    assert!(tries <= 12, "somebody came {tries} times");
    // No place was left empty for long: a hundred and twenty seconds of work for four.
    let took = now() - began;
    assert!((seconds(30)..seconds(40)).contains(&took), "{took:?}");
    assert_empty(&admission);
}

/// However requests are dropped, no place and no metric is left behind.
#[tokio::test(start_paused = true)]
async fn ten_thousand_cancels_leave_nothing_behind() {
    let admission = admission(5, 100);
    let mut random = 1u64;
    let mut chance = |of: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % of
    };
    let mut futures = Vec::new();
    let mut permits = Vec::new();
    for n in 0..10_000 {
        let key = ["a", "b", "c"][chance(3) as usize];
        let mut future = Box::pin(admission.admit(ask(key, Priority(chance(5) as i32))));
        if let std::task::Poll::Ready(outcome) = poll!(&mut future) {
            permits.extend(outcome);
        } else {
            futures.push(future);
        }
        if chance(3) == 0 && !permits.is_empty() {
            drop(permits.swap_remove(chance(permits.len() as u64) as usize));
        }
        // Some leave without having been polled since a permit was sent to them.
        if chance(2) == 0 && !futures.is_empty() {
            drop(futures.swap_remove(chance(futures.len() as u64) as usize));
        }
        if n % 7 == 0 && !futures.is_empty() {
            let at = chance(futures.len() as u64) as usize;
            if let std::task::Poll::Ready(outcome) = poll!(&mut futures[at]) {
                drop(futures.swap_remove(at));
                permits.extend(outcome);
            }
        }
        let occupancy = admission.occupancy("m").unwrap();
        assert!(occupancy.running <= 5 && occupancy.waiting <= 100);
    }
    futures.clear();
    permits.clear();
    assert_empty(&admission);
    let all: Vec<_> = (0..5).map(|_| admission.admit("m").now_or_never().unwrap().unwrap()).collect();
    assert!(admission.admit("m").now_or_never().is_none());
    drop(all);
}
