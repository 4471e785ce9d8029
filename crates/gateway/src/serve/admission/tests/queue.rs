//! A queue that is full.

use super::*;
use crate::serve::queue::Bound;

#[tokio::test(start_paused = true)]
async fn a_full_queue_rejects_at_once_and_a_leaver_makes_room() {
    let admission = admission(1, 1);
    let _held = admission.admit("m").await.unwrap();
    let mut waiter = Box::pin(admission.admit("m"));
    assert!(poll!(&mut waiter).is_pending());
    let rejection = admission.admit("m").now_or_never().unwrap().unwrap_err();
    let Rejection::QueueFull { bound: Bound::Requests, occupancy, retry_after } = rejection else {
        panic!("{rejection}")
    };
    assert_eq!((occupancy.limit, occupancy.running, occupancy.waiting), (1, 1, 1));
    assert_eq!(retry_after, seconds(1));
    drop(waiter);
    assert!(admission.admit("m").now_or_never().is_none(), "the leaver's place was not given up");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_shared_between_callers() {
    let admission = admission(1, 2);
    let _held = admission.admit("m").await.unwrap();
    let mut first = pin!(admission.admit(ask("a", Priority::NORMAL)));
    let mut second = pin!(admission.admit(ask("a", Priority::NORMAL)));
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    let mut other = pin!(admission.admit(ask("b", Priority::NORMAL)));
    assert!(poll!(&mut other).is_pending());
    assert!(matches!(second.now_or_never(), Some(Err(Rejection::QueueFull { .. }))));
    assert!(poll!(&mut first).is_pending());
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_in_tokens() {
    let admission = of(StreamRegistry { max_waiting_tokens: 100, ..StreamRegistry::of_streams(1) });
    let _held = admission.admit("m").await.unwrap();
    let of_tokens = |tokens| Ask { tokens, ..Ask::from("m") };
    let mut waiter = pin!(admission.admit(of_tokens(60)));
    assert!(poll!(&mut waiter).is_pending());
    let rejection = admission.admit(of_tokens(60)).await.unwrap_err();
    assert!(matches!(rejection, Rejection::QueueFull { bound: Bound::Tokens, .. }), "{rejection}");
    assert!(admission.admit(of_tokens(40)).now_or_never().is_none(), "there is room for it");
}

#[tokio::test(start_paused = true)]
async fn who_has_to_make_room_is_told_which_bound_was_reached() {
    let admission = of(StreamRegistry { max_waiting_tokens: 100, ..StreamRegistry::of_streams(1) });
    let _held = admission.admit("m").await.unwrap();
    let of_tokens = |key, tokens| Ask { tokens, ..ask(key, Priority::NORMAL) };
    let mut first = pin!(admission.admit(of_tokens("a", 50)));
    let mut second = pin!(admission.admit(of_tokens("a", 50)));
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    let mut other = pin!(admission.admit(of_tokens("b", 10)));
    assert!(poll!(&mut other).is_pending());
    let rejection = second.now_or_never().unwrap().unwrap_err();
    assert!(matches!(rejection, Rejection::QueueFull { bound: Bound::Tokens, .. }), "{rejection}");
    assert!(poll!(&mut first).is_pending());
}
