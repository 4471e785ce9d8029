#![allow(clippy::unwrap_used)]

use futures_util::{FutureExt, poll};
use std::pin::pin;

use super::*;
use crate::metrics::MetricRegistry;

fn admission(max_streams: usize, max_waiting: usize) -> Admission {
    let settings = StreamRegistry {
        min_streams: 1,
        max_streams,
        max_waiting,
        wait_timeout: Duration::from_secs(30),
        credit_chunks: 64,
    };
    Admission::new(settings, AdmissionMetrics::register(&mut MetricRegistry::new()))
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
async fn a_full_queue_rejects_at_once_and_a_leaver_makes_room() {
    let admission = admission(1, 1);
    let _held = admission.admit("m").await.unwrap();
    let mut waiter = Box::pin(admission.admit("m"));
    assert!(poll!(&mut waiter).is_pending());
    let rejection = admission.admit("m").now_or_never().unwrap().unwrap_err();
    assert_eq!(rejection, Rejection::QueueFull { waiting: 1 });
    drop(waiter);
    assert!(admission.admit("m").now_or_never().is_none(), "the leaver's place was not given up");
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_at_the_deadline() {
    let admission = admission(1, 1);
    let _held = admission.admit("m").await.unwrap();
    let began = Instant::now();
    let rejection = admission.admit("m").await.unwrap_err();
    assert_eq!(rejection, Rejection::WaitedTooLong { waited: Duration::from_secs(30) });
    assert_eq!(began.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_lower_limit_takes_effect_as_streams_end() {
    let admission = admission(3, 0);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(admission.admit("m").await.unwrap());
    }
    assert_eq!(admission.set_limit("m", 1), 1);
    held.truncate(1);
    assert!(admission.admit("m").await.is_err(), "two of three ended, and the limit is one");
    held.clear();
    held.push(admission.admit("m").await.unwrap());
    assert!(admission.admit("m").await.is_err());
    assert_eq!(admission.set_limit("m", 99), 3, "the limit stays within its range");
    held.push(admission.admit("m").await.unwrap());
    held.push(admission.admit("m").await.unwrap());
    assert!(admission.admit("m").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn raising_the_limit_forgives_debt_before_it_adds_permits() {
    let admission = admission(2, 0);
    let _held = [admission.admit("m").await.unwrap(), admission.admit("m").await.unwrap()];
    admission.set_limit("m", 1);
    admission.set_limit("m", 2);
    assert!(admission.admit("m").await.is_err(), "two streams run and the limit is two");
}

#[tokio::test(start_paused = true)]
async fn closing_turns_away_waiters_and_newcomers() {
    let admission = admission(1, 1);
    let _held = admission.admit("m").await.unwrap();
    let mut waiter = pin!(admission.admit("m"));
    assert!(poll!(&mut waiter).is_pending());
    admission.close();
    assert_eq!(waiter.await.unwrap_err(), Rejection::ShuttingDown);
    assert_eq!(admission.admit("m").await.unwrap_err(), Rejection::ShuttingDown);
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
    for n in 0..100 {
        admission.admit(&format!("m{n}")).await.unwrap();
    }
    assert!(admission.gates().open.len() <= 2);
    assert!(admission.admit("held").await.is_err(), "one that is used is kept");
    drop(held);
    assert!(admission.admit("held").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn other_settings_hold_from_then_on_and_turn_nobody_away() {
    let admission = admission(2, 1);
    let held = [admission.admit("m").await.unwrap(), admission.admit("m").await.unwrap()];
    let mut waiter = Box::pin(admission.admit("m"));
    assert!(poll!(&mut waiter).is_pending());
    let settings = StreamRegistry {
        min_streams: 1,
        max_streams: 1,
        max_waiting: 3,
        wait_timeout: Duration::from_secs(1),
        credit_chunks: 64,
    };
    admission.reconfigure(settings);
    assert_eq!(admission.metrics().limit.get(), 1);
    let mut second = Box::pin(admission.admit("m"));
    assert!(poll!(&mut second).is_pending(), "more may wait");
    let [first, other] = held;
    drop(first);
    assert!(poll!(&mut waiter).is_pending(), "one runs, and only one may");
    drop(other);
    assert!(waiter.now_or_never().unwrap().is_ok());
    admission.reconfigure(StreamRegistry { max_streams: 5, ..settings });
    assert!(second.now_or_never().unwrap().is_ok());
    assert!(admission.admit("other").now_or_never().unwrap().is_ok(), "new models, too");
}
