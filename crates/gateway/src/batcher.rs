//! Stage *batch*: submissions become [`Batch`]es. Pure: time comes in as an argument.
//!
//! Whatever is queued goes in one frame, up to `max_batch_size`. A hold window may let a submission
//! wait for others; it is 0 by default, because a busy link batches by itself: while one frame is
//! written, the next one's submissions gather.
//!
//! The queue is bounded without refusing anything: a live stream has at most one `Generate`, one
//! `Cancel` and one (summed) `Credit` in it, admission bounds the live streams, and a stream that
//! is cancelled before it was shipped leaves nothing behind.

use std::{collections::VecDeque, time::Instant};

use protocol::{
    ids::RequestId,
    message::{Batch, Prompt, Submission},
};

use crate::config::BatchQueue;

/// Submissions that were not taken yet, in order.
#[derive(Debug)]
pub struct Batcher {
    settings: BatchQueue,
    queue: VecDeque<Submission>,
    /// When the submission that waits longest came.
    oldest: Option<Instant>,
}

/// What to do with a [`Batcher`] now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing is queued.
    Idle,
    /// Others may still join; look again then, or when something is pushed.
    HoldUntil(Instant),
    /// Take a batch.
    Ship,
}

/// Large prompts are split over frames, so that a batch stays far below what the codec takes. A
/// single request may be larger: a request's body has a limit of its own.
const MAX_BATCH_BYTES: usize = 4 << 20;

impl Batcher {
    /// An empty queue.
    pub fn new(settings: BatchQueue) -> Self {
        Self { settings, queue: VecDeque::new(), oldest: None }
    }

    /// Queues a submission, or folds it into what is queued.
    pub fn push(&mut self, submission: Submission, now: Instant) {
        match submission {
            Submission::Cancel(id) if self.forget(id) => return,
            Submission::Credit { id, chunks } if self.add_credit(id, chunks) => return,
            submission => self.queue.push_back(submission),
        }
        self.oldest.get_or_insert(now);
    }

    /// What to do at `now`.
    pub fn next(&self, now: Instant) -> Next {
        let Some(oldest) = self.oldest else { return Next::Idle };
        let due = oldest + self.settings.flush_interval;
        if self.queue.len() >= self.settings.max_batch_size || now >= due {
            Next::Ship
        } else {
            Next::HoldUntil(due)
        }
    }

    /// The longest waiting submissions, at most `max_batch_size` and about `MAX_BATCH_BYTES`. What
    /// remains is due as before.
    pub fn take(&mut self) -> Batch {
        let mut bytes = 0;
        let fits = |submission: &&Submission| {
            let first = bytes == 0;
            bytes += size(submission);
            first || bytes <= MAX_BATCH_BYTES
        };
        let count = self.queue.iter().take(self.settings.max_batch_size).take_while(fits).count();
        let submissions = self.queue.drain(..count).collect();
        if self.queue.is_empty() {
            self.oldest = None;
        }
        Batch { submissions }
    }

    /// Submissions queued.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Drops what is queued for `id`; true if the worker has never heard of it and so needs no cancel.
    fn forget(&mut self, id: RequestId) -> bool {
        let before = self.queue.len();
        self.queue.retain(|s| !matches!(s, Submission::Generate(g) if g.id == id));
        let unheard = self.queue.len() < before;
        self.queue.retain(|s| !matches!(s, Submission::Credit { id: other, .. } if *other == id));
        if self.queue.is_empty() {
            self.oldest = None;
        }
        unheard
    }

    /// Adds to credit that is queued for `id`; false if there is none.
    fn add_credit(&mut self, id: RequestId, more: u32) -> bool {
        for submission in &mut self.queue {
            if let Submission::Credit { id: other, chunks } = submission
                && *other == id
            {
                *chunks = chunks.saturating_add(more);
                return true;
            }
        }
        false
    }
}

/// About the encoded size, and never 0.
fn size(submission: &Submission) -> usize {
    const REST: usize = 64;
    let Submission::Generate(generate) = submission else { return REST };
    let prompt = match &generate.prompt {
        Prompt::Chat(messages) => messages.iter().map(|m| m.role.len() + m.content.len() + REST).sum(),
        Prompt::Text(text) => text.len(),
        Prompt::Tokens(tokens) => tokens.len() * 5,
    };
    prompt + generate.sampling.logit_bias.len() * 9 + REST
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{collections::BTreeMap, time::Duration};

    use proptest::prelude::*;
    use protocol::message::{Generate, Sampling};

    use super::*;

    fn generate(id: u64) -> Submission {
        Submission::Generate(Box::new(Generate {
            id: RequestId(id),
            prompt: Prompt::Text(String::new()),
            sampling: Sampling::default(),
            max_tokens: None,
            stop: Vec::new(),
            ignore_eos: false,
            credit: 1,
        }))
    }

    fn credit(id: u64, chunks: u32) -> Submission {
        Submission::Credit { id: RequestId(id), chunks }
    }

    fn batcher(max_batch_size: usize, hold_ms: u64) -> Batcher {
        Batcher::new(BatchQueue { max_batch_size, flush_interval: Duration::from_millis(hold_ms) })
    }

    #[test]
    fn without_a_hold_window_anything_ships_at_once() {
        let (mut batcher, now) = (batcher(8, 0), Instant::now());
        assert_eq!(batcher.next(now), Next::Idle);
        batcher.push(generate(1), now);
        assert_eq!(batcher.next(now), Next::Ship);
        assert_eq!(batcher.take().submissions, [generate(1)]);
        assert_eq!(batcher.next(now), Next::Idle);
    }

    #[test]
    fn a_hold_window_counts_from_the_oldest_and_a_full_batch_ends_it() {
        let (mut batcher, now) = (batcher(2, 4), Instant::now());
        batcher.push(generate(1), now);
        let due = now + Duration::from_millis(4);
        assert_eq!(batcher.next(now + Duration::from_millis(1)), Next::HoldUntil(due));
        assert_eq!(batcher.next(due), Next::Ship);
        batcher.push(generate(2), now + Duration::from_millis(2));
        assert_eq!(batcher.next(now + Duration::from_millis(2)), Next::Ship);
    }

    #[test]
    fn a_stream_cancelled_before_it_shipped_leaves_nothing() {
        let (mut batcher, now) = (batcher(8, 4), Instant::now());
        batcher.push(generate(1), now);
        batcher.push(credit(1, 3), now);
        batcher.push(Submission::Cancel(RequestId(1)), now);
        assert_eq!((batcher.len(), batcher.next(now)), (0, Next::Idle));
    }

    #[test]
    fn a_shipped_stream_is_cancelled_without_its_credit() {
        let (mut batcher, now) = (batcher(8, 0), Instant::now());
        batcher.push(generate(1), now);
        batcher.take();
        batcher.push(credit(1, 3), now);
        batcher.push(Submission::Cancel(RequestId(1)), now);
        assert_eq!(batcher.take().submissions, [Submission::Cancel(RequestId(1))]);
    }

    #[test]
    fn large_prompts_are_split_over_batches() {
        let (mut batcher, now) = (batcher(8, 0), Instant::now());
        for id in 0..3 {
            let Submission::Generate(mut large) = generate(id) else { unreachable!() };
            large.prompt = Prompt::Text("x".repeat(MAX_BATCH_BYTES / 2));
            batcher.push(Submission::Generate(large), now);
        }
        batcher.push(generate(3), now);
        let sizes: Vec<_> = std::iter::from_fn(|| {
            (batcher.next(now) == Next::Ship).then(|| batcher.take().submissions.len())
        })
        .collect();
        assert_eq!(sizes, [1, 1, 2]);
    }

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Start,
        Credit(usize, u32),
        Cancel(usize),
        Take,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            Just(Op::Start),
            (0..8usize, 1..9u32).prop_map(|(i, n)| Op::Credit(i, n)),
            (0..8usize).prop_map(Op::Cancel),
            Just(Op::Take),
        ]
    }

    proptest! {
        /// Against a model of what the worker must have heard: every live stream was started once,
        /// before its credit, and has all of it; a cancelled one is unknown or cancelled once; no
        /// batch is too large; the queue stays within three submissions a stream.
        #[test]
        fn the_worker_hears_what_was_said(ops in prop::collection::vec(op(), 0..200), max in 1..9usize) {
            let (mut batcher, now) = (batcher(max, 0), Instant::now());
            let (mut said, mut heard) = (BTreeMap::<u64, u32>::new(), BTreeMap::<u64, u32>::new());
            let mut next_id = 0;
            let hear = |batch: Batch, heard: &mut BTreeMap<u64, u32>| {
                prop_assert!(!batch.submissions.is_empty() && batch.submissions.len() <= max);
                for submission in batch.submissions {
                    match submission {
                        Submission::Generate(g) => prop_assert!(heard.insert(g.id.0, 0).is_none()),
                        Submission::Credit { id, chunks } => *heard.get_mut(&id.0).unwrap() += chunks,
                        Submission::Cancel(id) => prop_assert!(heard.remove(&id.0).is_some()),
                        Submission::Drain => prop_assert!(false),
                    }
                }
                Ok(())
            };
            for op in ops {
                match op {
                    Op::Start if said.len() < 8 => {
                        said.insert(next_id, 0);
                        batcher.push(generate(next_id), now);
                        next_id += 1;
                    }
                    Op::Start => {}
                    Op::Credit(i, n) => if let Some((id, sum)) = said.iter_mut().nth(i) {
                        *sum += n;
                        batcher.push(credit(*id, n), now);
                    },
                    Op::Cancel(i) => if let Some(id) = said.keys().nth(i).copied() {
                        said.remove(&id);
                        batcher.push(Submission::Cancel(RequestId(id)), now);
                    },
                    Op::Take => if batcher.next(now) == Next::Ship {
                        hear(batcher.take(), &mut heard)?;
                    },
                }
                prop_assert!(batcher.len() <= 3 * 8, "{} submissions", batcher.len());
            }
            while batcher.next(now) == Next::Ship {
                hear(batcher.take(), &mut heard)?;
            }
            prop_assert_eq!(said, heard);
        }
    }
}
