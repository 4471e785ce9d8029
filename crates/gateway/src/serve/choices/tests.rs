#![allow(clippy::unwrap_used)]

use futures_util::FutureExt;
use protocol::message::{FinishReason, Usage};

use super::*;
use crate::serve::fixtures::Player;

fn now(choices: &mut Choices) -> Option<Result<(u32, OutputEvent), ServeError>> {
    std::future::poll_fn(|cx| choices.poll_next(cx)).now_or_never().expect("an event is ready")
}

fn text(index: u32, text: &str) -> Option<Result<(u32, OutputEvent), ServeError>> {
    Some(Ok((index, OutputEvent::Delta { text: text.into(), parts: Vec::new(), logprobs: Vec::new() })))
}

/// Two choices, and who plays their workers.
fn two() -> ([Player; 2], Choices) {
    let ((one, first), (two, second)) = (Player::begin(), Player::begin());
    ([one, two], Choices::new(vec![first, second]))
}

#[tokio::test]
async fn each_choice_has_its_turn_and_frees_its_place_when_it_ends() {
    let ([one, two], mut choices) = two();
    ["a", "b"].iter().for_each(|it| one.text(it));
    two.text("x");
    assert_eq!(now(&mut choices), text(0, "a"));
    assert_eq!(now(&mut choices), text(1, "x"));
    assert_eq!(now(&mut choices), text(0, "b"));
    assert!(std::future::poll_fn(|cx| choices.poll_next(cx)).now_or_never().is_none());
    let end = OutputEvent::Finish { reason: FinishReason::Stop, usage: Usage::default() };
    two.finish();
    assert!(!two.has_place());
    assert_eq!(now(&mut choices), Some(Ok((1, end.clone()))));
    assert!(two.has_place() && !one.has_place() && !choices.is_empty());
    one.finish();
    assert_eq!(now(&mut choices), Some(Ok((0, end))));
    assert!(choices.is_empty());
    assert_eq!(now(&mut choices), None);
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_ends_all() {
    let ([one, two], mut choices) = two();
    two.text("x");
    one.die();
    assert_eq!(now(&mut choices), text(1, "x"));
    let error = std::future::poll_fn(|cx| choices.poll_next(cx)).await;
    assert!(matches!(error, Some(Err(_))), "{error:?}");
    assert!(two.is_cancelled() && two.has_place());
    assert_eq!(now(&mut choices), None);
}

#[tokio::test]
async fn dropping_them_cancels_all() {
    let ([one, two], choices) = two();
    drop(choices);
    assert!(one.is_cancelled() && two.is_cancelled());
}

#[tokio::test]
async fn what_is_collected_is_the_output_of_each() {
    let ([one, two], choices) = two();
    two.text("x");
    one.text("a");
    two.text("y");
    two.finish();
    one.finish();
    let outputs = choices.collect().now_or_never().unwrap().unwrap();
    let texts: Vec<_> = outputs.iter().map(|it| (it.text.as_str(), it.reason)).collect();
    assert_eq!(texts, [("a", Some(FinishReason::Stop)), ("xy", Some(FinishReason::Stop))]);
}
