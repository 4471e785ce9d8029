//! The threads that sample the rows of a step.

use std::sync::{Mutex, PoisonError};

use protocol::message::DeltaTokens;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tracing::warn;

use super::{Sampler, Scratch};
use crate::constraint::TokenMask;

/// With fewer rows for each thread, another one is not worth waking.
const ROWS_A_THREAD: usize = 2;

/// One row of a step, and whose it is.
#[derive(Debug)]
pub struct Row<'a> {
    /// Chooses the tokens.
    pub sampler: &'a mut Sampler,
    /// Logits of every token of the vocabulary, and behind them those after each token of the draft.
    pub logits: &'a [f32],
    /// Guesses of the next tokens.
    pub draft: &'a [u32],
    /// Index of the first new token in the whole sequence.
    pub position: u64,
    /// The tokens that may follow; `None`: all.
    pub mask: Option<&'a TokenMask>,
}

/// One row of logits that are not certain, and whose guess it is for.
#[derive(Debug)]
pub struct GuessRow<'a> {
    /// What would choose the token.
    pub sampler: &'a Sampler,
    /// Logits of every token of the vocabulary.
    pub logits: &'a [f32],
    /// Index of the token in the whole sequence.
    pub position: u64,
}

/// The calling thread, and helpers that sleep between steps.
#[derive(Debug, Default)]
pub struct SampleThreads {
    scratch: Scratch,
    helpers: Option<Helpers>,
}

#[derive(Debug)]
struct Helpers {
    pool: ThreadPool,
    /// One for each of them.
    scratches: Vec<Scratch>,
}

impl SampleThreads {
    /// Starts helpers, so that `threads` sample, the calling one included.
    pub fn start(threads: usize) -> Self {
        let helpers = Helpers::start(threads.saturating_sub(1));
        Self { scratch: Scratch::default(), helpers }
    }

    /// The tokens that follow, in the order of the rows: as many as are guessed right, and the one behind.
    pub fn sample(&mut self, rows: Vec<Row<'_>>) -> Vec<DeltaTokens> {
        self.each(rows, Row::sample)
    }

    /// What each of the rows would choose next, in their order.
    pub fn guess(&mut self, rows: Vec<GuessRow<'_>>) -> Vec<u32> {
        let guess =
            |GuessRow { sampler, logits, position }: GuessRow<'_>, token: &mut u32, scratch: &mut Scratch| {
                *token = sampler.guess(logits, position, scratch);
            };
        self.each(rows, guess)
    }

    /// What `choose` makes of each of the rows, in their order.
    fn each<R: Send, T: Clone + Default + Send>(
        &mut self,
        rows: Vec<R>,
        choose: impl Fn(R, &mut T, &mut Scratch) + Sync,
    ) -> Vec<T> {
        let mut chosen = vec![T::default(); rows.len()];
        let helpers = (rows.len() / ROWS_A_THREAD).saturating_sub(1);
        self.work_off(&Mutex::new(rows.into_iter().zip(&mut chosen)), &choose, helpers);
        chosen
    }

    /// Works on the rows of `queue`, with at most so many helpers.
    fn work_off<'a, R: Send, T: Send + 'a>(
        &mut self,
        queue: &Mutex<impl Iterator<Item = (R, &'a mut T)> + Send>,
        choose: &(impl Fn(R, &mut T, &mut Scratch) + Sync),
        helpers: usize,
    ) {
        let Self { scratch, helpers: Some(Helpers { pool, scratches }) } = self else {
            return work(queue, choose, &mut self.scratch);
        };
        if helpers == 0 {
            return work(queue, choose, scratch);
        }
        pool.in_place_scope(|scope| {
            for scratch in scratches.iter_mut().take(helpers) {
                scope.spawn(move |_| work(queue, choose, scratch));
            }
            work(queue, choose, scratch);
        });
    }
}

impl Helpers {
    fn start(count: usize) -> Option<Self> {
        if count == 0 {
            return None;
        }
        let builder = ThreadPoolBuilder::new().num_threads(count).thread_name(|_| "sample".into());
        // It can be done without them, only slower.
        let failed = |error| warn!(%error, "the threads that sample can't be started, so only one samples");
        let pool = builder.build().map_err(failed).ok()?;
        Some(Self { pool, scratches: (0..count).map(|_| Scratch::default()).collect() })
    }
}

/// Works on row after row, until there is none left. What rows cost can differ a lot, so no thread has a share of its own.
fn work<'a, R, T: 'a>(
    queue: &Mutex<impl Iterator<Item = (R, &'a mut T)>>,
    choose: &impl Fn(R, &mut T, &mut Scratch),
    scratch: &mut Scratch,
) {
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    while let Some((row, chosen)) = next() {
        choose(row, chosen, scratch);
    }
}

impl Row<'_> {
    /// Chooses token after token, as if each was the only one, until one is not what was guessed: the logits behind it
    /// are those of another text.
    fn sample(self, tokens: &mut DeltaTokens, scratch: &mut Scratch) {
        let Self { sampler, logits, draft, position, mask } = self;
        let vocabulary = logits.len() / (draft.len() + 1);
        for (index, position) in (0..=draft.len()).zip(position..) {
            let logits = &logits[index * vocabulary..][..vocabulary];
            let token = sampler.sample_among(logits, position, mask, scratch);
            tokens.push(token);
            if draft.get(index) != Some(&token) {
                return;
            }
        }
    }
}
