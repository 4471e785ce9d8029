//! Requests for several streams.

use super::*;

fn several(streams: usize) -> Ask {
    Ask { streams, ..Ask::from("m") }
}

#[tokio::test(start_paused = true)]
async fn all_are_admitted_together_and_end_one_by_one() {
    let admission = admission(3, 4);
    let mut group = admission.admit(several(3)).now_or_never().unwrap().unwrap();
    let others = group.take_others();
    assert_eq!(others.len(), 2);
    let mut next = pin!(admission.admit(several(2)));
    assert!(poll!(&mut next).is_pending());
    drop(group);
    assert!(poll!(&mut next).is_pending(), "one place is not enough");
    drop(others);
    let next = next.now_or_never().unwrap().unwrap();
    assert_eq!(admission.occupancy("m").unwrap().running, 2);
    drop(next);
    assert_empty(&admission);
}

/// Two that need all places and hold some each would wait for each other.
#[tokio::test(start_paused = true)]
async fn nobody_holds_a_part_of_what_it_needs() {
    let admission = admission(4, 8);
    let held = [admission.admit("m").await.unwrap(), admission.admit("m").await.unwrap()];
    let (mut one, mut two) = (pin!(admission.admit(several(4))), pin!(admission.admit(several(4))));
    assert!(poll!(&mut one).is_pending() && poll!(&mut two).is_pending());
    assert_eq!(admission.occupancy("m").unwrap().running, 2);
    let mut small = pin!(admission.admit("m"));
    assert!(poll!(&mut small).is_pending(), "it does not overtake those that need more");
    drop(held);
    let one = one.now_or_never().unwrap().unwrap();
    assert!(poll!(&mut two).is_pending() && poll!(&mut small).is_pending());
    drop(one);
    let two = two.now_or_never().unwrap().unwrap();
    drop(two);
    assert!(small.now_or_never().unwrap().is_ok());
    assert_empty(&admission);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_keeps_no_places_from_those_who_need_fewer() {
    let admission = admission(2, 4);
    let held = admission.admit("m").await.unwrap();
    let mut large = Box::pin(admission.admit(several(2)));
    let mut small = pin!(admission.admit("m"));
    assert!(poll!(&mut large).is_pending() && poll!(&mut small).is_pending());
    drop(large);
    let small = small.now_or_never().unwrap().unwrap();
    drop((held, small));
    assert_empty(&admission);
}

#[tokio::test(start_paused = true)]
async fn each_stream_is_a_request_of_its_callers_rate() {
    let admission = admission(8, 0);
    let settings = StreamRegistry { max_waiting: 0, ..StreamRegistry::of_streams(8) };
    admission.configure(settings, RateLimits { requests_per_minute: Some(5), ..RateLimits::default() });
    let of = |streams| Ask { streams, ..ask("a", Priority::NORMAL) };
    let _held = admission.admit(of(3)).await.unwrap();
    let rejection = admission.admit(of(3)).await.unwrap_err();
    assert!(matches!(rejection, Rejection::RateLimited(_)), "{rejection}");
    assert!(admission.admit(of(2)).await.is_ok(), "what was refused took nothing");
}
