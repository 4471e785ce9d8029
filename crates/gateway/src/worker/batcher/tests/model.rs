//! Any sequence of submissions, against a model of what the worker must have received.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Op {
    Start,
    Credit(usize, u32),
    /// Of a kind and with so many bytes.
    Operate(bool, usize),
    Cancel(usize),
    Take,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        Just(Op::Start),
        (0..8usize, 1..9u32).prop_map(|(i, n)| Op::Credit(i, n)),
        (any::<bool>(), prop_oneof![4 => 0..9usize, 1 => 2000..4000usize])
            .prop_map(|(kind, n)| Op::Operate(kind, n)),
        (0..16usize).prop_map(Op::Cancel),
        Just(Op::Take),
    ]
}

/// What the worker knows of a request: a stream's credit, or an operation.
#[derive(Clone, Debug, PartialEq)]
enum Known {
    Stream(u32),
    Operation(OperationKind),
}

proptest! {
    /// Against a model of what the worker must have received: every live request was started once, a stream before its
    /// credit, and has all of it; a cancelled one is unknown or cancelled once; no batch is too large; within one,
    /// operations of a kind lie together; the queue stays within three submissions a request.
    #[test]
    fn the_worker_receives_what_was_submitted(ops in prop::collection::vec(op(), 0..200), max in 1..9usize) {
        let (mut batcher, now) = (batcher(max, 0), Instant::now());
        let (mut submitted, mut received) = (BTreeMap::<u64, Known>::new(), BTreeMap::<u64, Known>::new());
        let mut next_id = 0;
        let receive = |taken: &Taken, received: &mut BTreeMap<u64, Known>| {
            let (submissions, _) = decoded(taken);
            let (operations, others): (Vec<_>, Vec<_>) =
                submissions.into_iter().partition(|it| matches!(it, Submission::Operation(_)));
            prop_assert!(operations.len() <= max && others.len() <= max && !taken.is_empty());
            let mut kinds = Vec::new();
            for submission in others.into_iter().chain(operations) {
                match submission {
                    Submission::Generate(g) => {
                        prop_assert!(received.insert(g.id.0, Known::Stream(0)).is_none());
                    }
                    Submission::Operation(operation) => {
                        kinds.push(operation.kind.index());
                        let known = Known::Operation(operation.kind);
                        prop_assert!(received.insert(operation.id.0, known).is_none());
                    }
                    Submission::Credit { id, chunks } => match received.get_mut(&id.0) {
                        Some(Known::Stream(credit)) => *credit += chunks,
                        other => prop_assert!(false, "{other:?}"),
                    },
                    Submission::Cancel(id) => prop_assert!(received.remove(&id.0).is_some()),
                    Submission::Drain => prop_assert!(false),
                }
            }
            kinds.dedup();
            let distinct: BTreeSet<_> = kinds.iter().collect();
            // Large ones of all kinds come behind the small ones.
            prop_assert!(kinds.len() <= 2 * distinct.len(), "{kinds:?}");
            Ok(())
        };
        for op in ops {
            match op {
                Op::Start | Op::Operate(..) if submitted.len() >= 16 => {}
                Op::Start => {
                    submitted.insert(next_id, Known::Stream(0));
                    batcher.push(generate(next_id), || now);
                    next_id += 1;
                }
                Op::Operate(counts, size) => {
                    let kind = if counts { count_tokens(&"x".repeat(size)) } else { detokenize(size) };
                    batcher.push_operation(operation(next_id, &kind), false, || now).unwrap();
                    submitted.insert(next_id, Known::Operation(kind));
                    next_id += 1;
                }
                Op::Credit(i, n) => {
                    if let Some((id, Known::Stream(sum))) = submitted.iter_mut().nth(i) {
                        *sum += n;
                        batcher.push(credit(*id, n), || now);
                    }
                }
                Op::Cancel(i) => if let Some(id) = submitted.keys().nth(i).copied() {
                    submitted.remove(&id);
                    batcher.push(Queued::Cancel(RequestId(id)), || now);
                },
                Op::Take => if batcher.next(now) != Next::Idle {
                    receive(&take(&mut batcher, now), &mut received)?;
                },
            }
            prop_assert!(batcher.len() <= 3 * 16, "{} submissions", batcher.len());
            prop_assert_eq!(batcher.is_empty(), batcher.next(now) == Next::Idle);
        }
        while batcher.next(now) != Next::Idle {
            receive(&take(&mut batcher, now), &mut received)?;
        }
        prop_assert_eq!(submitted, received);
    }
}
