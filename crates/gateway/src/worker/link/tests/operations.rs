//! Operations over the link.

use futures_util::future;
use protocol::message::{Answer, TokenizeInput};
use tokio::task::JoinHandle;

use super::*;

fn count(text: &str) -> OperationKind {
    OperationKind::Count(TokenizeInput::new(Prompt::Text(text.into())))
}

/// An operation that is waited for while the test plays the worker.
fn ask(link: &Link) -> JoinHandle<Result<Answer, Failure>> {
    let link = link.clone();
    tokio::spawn(async move { link.operate(count("a"), false).await })
}

/// The ids of a batch of operations.
fn ids(batch: &[Submission]) -> Vec<RequestId> {
    let ids = batch.iter().map(|submission| match submission {
        Submission::Operation(operation) => operation.id,
        other => panic!("{other:?}"),
    });
    ids.collect()
}

#[tokio::test]
async fn operations_ride_with_streams_and_each_gets_its_own_answer() {
    let mut world = World::new().await;
    let link = world.link.clone();
    let mut stream = link.open(generate(1, 8), Progress::new(Instant::now())).unwrap();
    let asked = ["a", "b", "c"].map(|text| link.operate(count(text), false));
    assert_eq!(link.open_operations(), 0, "nothing is asked for before it is polled");
    let mut answers = std::pin::pin!(future::join_all(asked));
    assert!(answers.as_mut().now_or_never().is_none());
    let batch = world.peer.next_batch().await;
    let (first, rest) = batch.split_first().unwrap();
    assert_eq!(*first, Submission::Generate(Box::new(generate(1, 8))));
    let [a, b, c] = ids(rest)[..] else { panic!("{rest:?}") };
    assert_eq!(link.open_operations(), 3);
    let failed = StreamEventKind::Failed(failure("too long"));
    let (one, three) = (Answer::Count(1), Answer::Count(3));
    // In any order, and one of them fails alone.
    world
        .peer
        .events(&[
            (c.0, StreamEventKind::Answered(three.clone())),
            (1, finished()),
            (b.0, failed),
            (a.0, StreamEventKind::Answered(one.clone())),
            (a.0, StreamEventKind::Answered(Answer::Count(9))),
        ])
        .await;
    assert_eq!(soon("answers", answers).await, [Ok(one), Err(failure("too long")), Ok(three)]);
    assert_eq!(next(&mut stream).await, Some(finished()));
    assert_eq!(link.open_operations(), 0);
    assert_eq!(world.metrics.sent.frames.get(), 1);
}

#[tokio::test]
async fn a_dropped_operation_is_cancelled_once_it_was_sent() {
    let mut world = World::new().await;
    let link = world.link.clone();
    {
        let mut unsent = std::pin::pin!(link.operate(count("unsent"), false));
        assert!(unsent.as_mut().now_or_never().is_none());
    }
    let sent = tokio::spawn({
        let link = link.clone();
        async move { link.operate(count("sent"), false).await }
    });
    let batch = world.peer.next_batch().await;
    let [id] = ids(&batch)[..] else { panic!("{batch:?}") };
    sent.abort();
    assert_eq!(world.peer.next_batch().await, [Submission::Cancel(id)]);
    // An answer that comes late is nobody's, also if another operation has the slot.
    let next = tokio::spawn({
        let link = link.clone();
        async move { link.operate(count("next"), false).await }
    });
    let batch = world.peer.next_batch().await;
    let [other] = ids(&batch)[..] else { panic!("{batch:?}") };
    assert_ne!(other, id);
    let answer = |count| StreamEventKind::Answered(Answer::Count(count));
    world.peer.events(&[(id.0, answer(1)), (other.0, answer(2))]).await;
    assert_eq!(soon("an answer", next).await.unwrap(), Ok(Answer::Count(2)));
}

#[tokio::test]
async fn a_worker_that_dies_fails_its_operations_and_takes_no_more() {
    let mut world = World::new().await;
    let link = world.link.clone();
    let asked = ask(&link);
    world.peer.next_batch().await;
    link.lose_all(&Loss::Crashed("it died".into()));
    let failure = soon("a failure", asked).await.unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::WorkerLost);
    assert!(failure.message.contains("it died"), "{}", failure.message);
    assert_eq!(soon("a refusal", link.operate(count("b"), false)).await, Err(failure));
    assert_eq!(link.open_operations(), 0);
}

#[tokio::test]
async fn a_worker_that_is_released_is_to_cancel_its_operations_and_they_can_be_done_elsewhere() {
    let mut world = World::new().await;
    let link = world.link.clone();
    let asked = ask(&link);
    let id = ids(&world.peer.next_batch().await)[0];
    link.release();
    let failure = soon("a failure", asked).await.unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::WorkerLost);
    assert_eq!(soon("a refusal", link.operate(count("b"), false)).await, Err(failure));
    soon("an idle link", link.idle()).await;
    assert_eq!(world.peer.next_batch().await, [Submission::Cancel(id)]);
}

#[tokio::test]
async fn a_link_is_idle_when_its_operations_are_answered() {
    let mut world = World::new().await;
    let link = world.link.clone();
    let asked = ask(&link);
    let batch = world.peer.next_batch().await;
    link.close();
    let mut idle = std::pin::pin!(link.idle());
    assert!(idle.as_mut().now_or_never().is_none());
    world.peer.events(&[(ids(&batch)[0].0, StreamEventKind::Answered(Answer::Count(1)))]).await;
    soon("an idle link", idle).await;
    assert_eq!(soon("the answer", asked).await.unwrap(), Ok(Answer::Count(1)));
    let refused = soon("a refusal", link.operate(count("b"), false)).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::WorkerLost);
}

#[tokio::test]
async fn events_of_a_stream_are_no_answer() {
    let mut world = World::new().await;
    let link = world.link.clone();
    let asked = ask(&link);
    let id = ids(&world.peer.next_batch().await)[0];
    world.peer.events(&[(id.0, chunk("text"))]).await;
    assert_eq!(soon("a failure", asked).await.unwrap().unwrap_err().kind, FailureKind::Internal);
    assert_eq!(world.peer.next_batch().await, [Submission::Cancel(id)]);
    assert!(link.is_alive());
}

#[tokio::test]
async fn an_operation_that_fits_no_frame_fails_alone() {
    let world = World::new().await;
    let huge = count(&"x".repeat(60 << 20));
    let failure = soon("a refusal", world.link.operate(huge, false)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    assert_eq!(world.link.open_operations(), 0);
}
