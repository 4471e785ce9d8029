#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Wake,
    time::Duration,
};

use proptest::prelude::*;
use protocol::message::{Prompt, TokenizeInput};

use super::*;
use crate::config::BatchQueue;

fn outbox() -> Outbox {
    Outbox::new(BatchQueue { max_batch_size: 8, flush_interval: Duration::ZERO })
}

fn kind() -> OperationKind {
    OperationKind::Count(TokenizeInput::new(Prompt::Text("x".into())))
}

fn failure() -> Failure {
    Failure { kind: FailureKind::WorkerLost, param: None, message: "gone".into() }
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// An operation that was polled, its id, and how often it was woken.
struct Asked<'a> {
    operate: Operate<'a, OperationKind>,
    id: RequestId,
    wakes: Arc<Wakes>,
}

impl<'a> Asked<'a> {
    fn new(operations: &'a Operations, outbox: &'a Outbox) -> Self {
        let wakes = Arc::<Wakes>::default();
        let mut operate = operations.operate(outbox, kind(), false);
        let waker = Waker::from(Arc::clone(&wakes));
        assert!(Pin::new(&mut operate).poll(&mut Context::from_waker(&waker)).is_pending());
        let State::Sent(id) = operate.state else { panic!("{:?}", operate.state) };
        Self { operate, id, wakes }
    }

    fn poll(&mut self) -> Poll<Result<Answer, Failure>> {
        let waker = Waker::from(Arc::clone(&self.wakes));
        Pin::new(&mut self.operate).poll(&mut Context::from_waker(&waker))
    }
}

fn answered(id: RequestId, count: u64) -> StreamEvent {
    StreamEvent { id, kind: StreamEventKind::Answered(Answer::Count(count)) }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Ask,
    Answer(usize),
    /// Of an operation that was asked for at some time.
    AnswerLate(u64),
    Fetch(usize),
    Leave(usize),
    FailAll,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Ask),
        3 => (0..8usize).prop_map(Step::Answer),
        1 => any::<u64>().prop_map(Step::AnswerLate),
        3 => (0..8usize).prop_map(Step::Fetch),
        2 => (0..8usize).prop_map(Step::Leave),
    ]
}

proptest! {
    /// Whatever happens in whichever order: each operation gets its own answer once, is woken once, and the table
    /// knows how many are open.
    #[test]
    fn everyone_gets_their_own_answer(steps in prop::collection::vec(step(), 0..150), last in any::<bool>()) {
        let (operations, outbox) = (Operations::default(), outbox());
        let mut asked: Vec<Asked<'_>> = Vec::new();
        let (mut answers, mut gone) = (BTreeMap::<RequestId, u64>::new(), Vec::new());
        let mut wakers = Vec::new();
        let steps = steps.into_iter().chain(last.then_some(Step::FailAll));
        for (n, step) in steps.enumerate() {
            match step {
                Step::Ask => {
                    let new = Asked::new(&operations, &outbox);
                    prop_assert!(is_operation(new.id) && !gone.contains(&new.id));
                    asked.push(new);
                }
                Step::Answer(i) => if let Some(it) = asked.get(i) {
                    let mut events = vec![answered(it.id, n as u64)];
                    prop_assert!(operations.deliver(&mut events, &mut wakers).is_empty());
                    prop_assert!(events.is_empty() && wakers.is_empty());
                    answers.entry(it.id).or_insert(n as u64);
                    prop_assert_eq!(it.wakes.0.load(Ordering::Relaxed), 1);
                },
                Step::AnswerLate(some) => {
                    let id = match gone.len() {
                        0 => RequestId(OPERATION | some),
                        len => gone[some as usize % len],
                    };
                    if !asked.iter().any(|it| it.id == id) {
                        operations.deliver(&mut vec![answered(id, 0)], &mut wakers);
                    }
                }
                Step::Fetch(i) if i < asked.len() => {
                    let expected = answers.get(&asked[i].id).map(|count| Ok(Answer::Count(*count)));
                    match asked[i].poll() {
                        Poll::Pending => prop_assert_eq!(expected, None),
                        Poll::Ready(answer) => {
                            prop_assert_eq!(Some(answer), expected);
                            gone.push(asked.remove(i).id);
                        }
                    }
                }
                Step::Leave(i) if i < asked.len() => gone.push(asked.remove(i).id),
                Step::Fetch(_) | Step::Leave(_) => {}
                Step::FailAll => {
                    let open: Vec<_> = asked.iter().map(|it| it.id).filter(|id| !answers.contains_key(id)).collect();
                    let mut failed = operations.fail_all(failure());
                    failed.sort_unstable();
                    let mut expected = open.clone();
                    expected.sort_unstable();
                    prop_assert_eq!(failed, expected);
                    for mut it in asked.drain(..) {
                        let expected = answers.get(&it.id).map_or(Err(failure()), |count| Ok(Answer::Count(*count)));
                        prop_assert_eq!(it.poll(), Poll::Ready(expected));
                    }
                }
            }
            let open = asked.iter().filter(|it| !answers.contains_key(&it.id)).count();
            prop_assert_eq!(operations.len(), open);
        }
        drop(asked);
        let table = operations.table();
        prop_assert_eq!(table.free.len(), table.slots.len(), "a slot is never lost");
    }
}

#[test]
fn events_of_streams_are_left_alone() {
    let operations = Operations::default();
    let stream = answered(RequestId(7), 1);
    let mut events = vec![stream.clone(), answered(RequestId(OPERATION | 3), 1), stream.clone()];
    assert!(operations.deliver(&mut events, &mut Vec::new()).is_empty());
    assert_eq!(events, [stream.clone(), stream]);
}

#[test]
fn many_at_once_leave_no_memory_behind() {
    let (operations, outbox) = (Operations::default(), outbox());
    let asked: Vec<_> = (0..2 * KEPT).map(|_| Asked::new(&operations, &outbox)).collect();
    assert_eq!(operations.len(), 2 * KEPT);
    drop(asked);
    assert_eq!((operations.len(), operations.table().slots.capacity()), (0, 0));
}

#[test]
fn a_closed_table_takes_nothing_new() {
    let (operations, outbox) = (Operations::default(), outbox());
    operations.close(failure());
    operations.close(Failure { message: "later".into(), ..failure() });
    let mut operate = operations.operate(&outbox, kind(), false);
    let poll = Pin::new(&mut operate).poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(poll, Poll::Ready(Err(failure())), "the first reason stays");
}
