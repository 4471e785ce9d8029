//! What layers keep of a sequence beside keys and values: states of a fixed size, which every token changes.
//!
//! ```text
//! tokens     0 ······· 32 ······· 64 ····· 75
//! sequence              snapshot            current state, pinned
//! step       reads the current state, writes a new one, and snapshots on the way
//! ```
//!
//! A state is written once and never changed: a step that fails leaves what its sequences had, and sequences share states
//! without copying. Keys and values can be cut anywhere, but a sequence goes on only from where a state is. So snapshots are
//! kept behind whole blocks: at multiples of an [interval](super::divide), and behind the last whole block, which moves on with the
//! sequence. Kept prefixes hold them, too.

use std::{
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mlx_rs::{Array, error::Exception};

use super::{
    Convolution, GatedDelta, KvError, StateBudget, StateGeometry,
    cpu::{CpuStateStep, CpuStates},
    mlx::{MlxStateStep, MlxStates},
    recurrent::RowStates,
};
use crate::cache::{BLOCK_TOKENS, Snapshot, StatePool};

/// The states of all sequences.
pub(crate) struct StateMemory {
    shared: Rc<SharedStates>,
    interval: usize,
    /// Sequences that may be in a step at the same time.
    sequences: usize,
    state_bytes: u64,
}

struct SharedStates {
    pool: Arc<Mutex<StatePool>>,
    storage: Storage,
}

/// Where states are.
enum Storage {
    Cpu(CpuStates),
    Mlx(MlxStates),
}

/// What one sequence has of it.
pub(crate) struct SequenceState {
    shared: Rc<SharedStates>,
    interval: usize,
    /// Behind all of its tokens. `None`: there are none, or the state is to be found among the snapshots.
    current: Option<Pinned>,
    /// Behind so many of its tokens, in order.
    snapshots: Vec<(usize, Held)>,
    /// What the step that is being computed writes.
    pending: Option<Pending>,
    /// Where a snapshot is wanted that would not be made otherwise.
    marked: Option<usize>,
}

struct Pending {
    current: Pinned,
    snapshots: Vec<(usize, Pinned)>,
}

/// A state that nobody takes away.
struct Pinned {
    state: i32,
    shared: Rc<SharedStates>,
}

/// A snapshot.
struct Held {
    snapshot: Snapshot,
    shared: Rc<SharedStates>,
}

/// One row of a step.
pub(crate) struct StateRow<'a> {
    /// Tokens that the sequence has.
    pub(crate) position: usize,
    /// Tokens that the step appends.
    pub(crate) new_tokens: usize,
    /// Whether a token is chosen behind them: they are the last of a prompt, or one of an answer.
    pub(crate) samples: bool,
    pub(crate) state: &'a mut SequenceState,
}

/// The rows of a step, for each layer that keeps a state.
pub(crate) enum StateStep {
    Cpu(CpuStateStep),
    Mlx(MlxStateStep),
}

impl StateMemory {
    /// Of as many states as the budget has.
    pub(super) fn new(
        geometry: &StateGeometry,
        budget: StateBudget,
        state_bytes: u64,
        on_cpu: bool,
    ) -> Result<Self, KvError> {
        let storage = if on_cpu {
            Storage::Cpu(CpuStates::new(geometry, budget.states)?)
        } else {
            Storage::Mlx(MlxStates::new(budget.states))
        };
        let pool = Arc::new(Mutex::new(StatePool::new(budget.states)));
        let shared = Rc::new(SharedStates { pool, storage });
        Ok(Self { shared, interval: budget.interval, sequences: budget.kv.sequences, state_bytes })
    }

    /// Sequences that may be in a step at the same time. One more may have a state.
    pub(crate) fn sequences(&self) -> usize {
        self.sequences
    }

    /// Says how many bytes are in use. Any thread may ask.
    pub(crate) fn used_bytes(&self) -> Box<dyn Fn() -> u64 + Send> {
        let (pool, state_bytes) = (Arc::clone(&self.shared.pool), self.state_bytes);
        Box::new(move || lock(&pool).used() as u64 * state_bytes)
    }

    /// That of a sequence without tokens.
    pub(crate) fn sequence(&self) -> SequenceState {
        SequenceState {
            shared: Rc::clone(&self.shared),
            interval: self.interval,
            current: None,
            snapshots: Vec::new(),
            pending: None,
            marked: None,
        }
    }

    /// States for what a step computes.
    ///
    /// # Errors
    /// There is none for a row to go on from, or none to be written.
    pub(crate) fn begin(&self, rows: Vec<StateRow<'_>>) -> Result<StateStep, KvError> {
        let mut states = Vec::with_capacity(rows.len());
        for row in rows {
            if !Rc::ptr_eq(&self.shared, &row.state.shared) {
                return Err(Exception::custom("a step has a sequence of another model").into());
            }
            states.push(row.state.begin(row.position, row.new_tokens, row.samples)?);
        }
        Ok(match &self.shared.storage {
            Storage::Cpu(memory) => StateStep::Cpu(memory.step(&states)?),
            Storage::Mlx(memory) => StateStep::Mlx(memory.step(states)),
        })
    }
}

impl SequenceState {
    /// States for a row of `new` tokens behind the first `len`.
    fn begin(&mut self, len: usize, new: usize, samples: bool) -> Result<RowStates, KvError> {
        // What is left of a step that has failed.
        self.pending = None;
        if self.current.is_none() && len > 0 {
            self.current = Some(self.pin(len).ok_or(KvError::NoState { len })?);
        }
        let current = SharedStates::allocate(&self.shared)?;
        let mut snapshots = Vec::new();
        for at in self.wanted(len, len + new, samples) {
            // They are of use later; the step can do without.
            let Ok(snapshot) = SharedStates::allocate(&self.shared) else { break };
            snapshots.push((at, snapshot));
        }
        let row = RowStates {
            new_tokens: new as i32,
            from: self.current.as_ref().map(|pinned| pinned.state),
            to: current.state,
            snapshots: snapshots.iter().map(|(at, pinned)| ((at - len) as i32, pinned.state)).collect(),
        };
        self.pending = Some(Pending { current, snapshots });
        Ok(row)
    }

    /// Where between `start` and `end` snapshots are to be made, in order.
    fn wanted(&self, start: usize, end: usize, samples: bool) -> Vec<usize> {
        let whole = |len: usize| len / BLOCK_TOKENS * BLOCK_TOKENS;
        // The same prompt goes on before its last token.
        let last = whole(if samples { end - 1 } else { end });
        let first = (start / self.interval + 1).saturating_mul(self.interval);
        let regular = (first..end).step_by(self.interval);
        let mut all: Vec<usize> = regular.chain([last]).chain(self.marked).collect();
        all.retain(|at| (start + 1..end).contains(at));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The step that was begun has been computed: the sequence has `len` tokens.
    pub(crate) fn commit(&mut self, len: usize) {
        let Some(Pending { current, snapshots }) = self.pending.take() else { return };
        let mut new: Vec<(usize, Held)> =
            snapshots.into_iter().map(|(at, pinned)| (at, pinned.hold())).collect();
        if len.is_multiple_of(BLOCK_TOKENS) {
            new.push((len, current.hold()));
        }
        self.current = Some(current);
        if !new.is_empty() {
            let interval = self.interval;
            self.snapshots.retain(|(at, _)| at.is_multiple_of(interval));
        }
        self.snapshots.extend(new);
        self.marked = self.marked.filter(|&at| at > len);
    }

    /// Asks for a snapshot behind the first `len` tokens, which are not computed yet.
    pub(crate) fn mark(&mut self, len: usize) {
        self.marked = Some(len);
    }

    /// How many of the first `len` tokens of a sequence that has `all` can be gone on behind.
    pub(crate) fn fork_point(&self, len: usize, all: usize) -> usize {
        if self.current.is_some() && all <= len {
            return all;
        }
        self.there(len).last().map_or(0, |(at, _)| *at)
    }

    /// That of a sequence with the first `len` of `all` tokens, which goes on from a snapshot, if it does.
    pub(crate) fn fork(&self, len: usize, all: usize) -> Self {
        let mut snapshots: Vec<(usize, Held)> = self
            .there(len)
            .into_iter()
            .map(|(at, snapshot)| (at, Held::share(snapshot, &self.shared)))
            .collect();
        if let Some(current) = self.current.as_ref().filter(|_| len == all)
            && snapshots.last().is_none_or(|(at, _)| *at < len)
        {
            snapshots.push((len, current.hold()));
        }
        let shared = Rc::clone(&self.shared);
        Self { shared, interval: self.interval, current: None, snapshots, pending: None, marked: None }
    }

    /// The same, with a state that nobody takes away before it goes on. `None`: there is no state.
    pub(crate) fn resume(&self, len: usize, all: usize) -> Option<Self> {
        let mut fork = self.fork(len, all);
        if len > 0 {
            fork.current = Some(fork.pin(len)?);
        }
        Some(fork)
    }

    /// Holds the snapshots of another sequence that begins with the same `len` tokens, too.
    pub(crate) fn adopt(&mut self, other: &Self, len: usize) {
        let (own, others) = (self.there(usize::MAX), other.there(len));
        let is_new = |at: usize| own.iter().all(|(own, _)| *own != at);
        let new: Vec<_> = others.into_iter().filter(|(at, _)| is_new(*at)).collect();
        self.snapshots.retain(|(at, _)| own.iter().any(|(own, _)| own == at));
        self.snapshots.extend(new.into_iter().map(|(at, it)| (at, Held::share(it, &self.shared))));
        self.snapshots.sort_by_key(|(at, _)| *at);
    }

    /// The snapshots up to `len` that are still there.
    fn there(&self, len: usize) -> Vec<(usize, Snapshot)> {
        let pool = self.shared.pool();
        let there = self.snapshots.iter().filter(|(at, held)| *at <= len && pool.has(held.snapshot));
        there.map(|(at, held)| (*at, held.snapshot)).collect()
    }

    /// Forgets what is behind the first `len` of `all` tokens. The sequence can go on if there is a state.
    pub(crate) fn truncate(&mut self, len: usize, all: usize) {
        self.pending = None;
        if len < all {
            self.current = None;
            self.snapshots.retain(|(at, _)| *at <= len);
        }
    }

    fn pin(&self, len: usize) -> Option<Pinned> {
        let (_, held) = self.snapshots.iter().find(|(at, _)| *at == len)?;
        let state = self.shared.pool().pin_snapshot(held.snapshot)?;
        Some(Pinned { state, shared: Rc::clone(&self.shared) })
    }
}

impl SharedStates {
    fn pool(&self) -> MutexGuard<'_, StatePool> {
        lock(&self.pool)
    }

    fn allocate(shared: &Rc<Self>) -> Result<Pinned, KvError> {
        let state = shared.pool().allocate()?;
        Ok(Pinned { state, shared: Rc::clone(shared) })
    }
}

fn lock(pool: &Mutex<StatePool>) -> MutexGuard<'_, StatePool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pinned {
    fn hold(&self) -> Held {
        Held { snapshot: self.shared.pool().hold(self.state), shared: Rc::clone(&self.shared) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.shared.pool().unpin(self.state);
    }
}

impl Held {
    fn share(snapshot: Snapshot, shared: &Rc<SharedStates>) -> Self {
        shared.pool().share(snapshot);
        Self { snapshot, shared: Rc::clone(shared) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.pool().release(self.snapshot);
    }
}

impl StateStep {
    /// A convolution over `x` `[tokens, width]` of all rows; lazy.
    pub(crate) fn convolve(&self, job: &Convolution, x: &Array) -> Result<Array, Exception> {
        match self {
            Self::Cpu(step) => step.convolve(job, x),
            Self::Mlx(step) => step.convolve(job, x),
        }
    }

    /// The gated delta rule over queries, keys and values, and gates `[tokens, width]` of all rows; lazy.
    pub(crate) fn gated_delta(
        &self,
        job: &GatedDelta,
        qkv: &Array,
        gates: &Array,
    ) -> Result<Array, Exception> {
        match self {
            Self::Cpu(step) => step.gated_delta(job, qkv, gates),
            Self::Mlx(step) => step.gated_delta(job, qkv, gates),
        }
    }

    /// What is to be evaluated of it with the step's results. All layers have been asked.
    pub(crate) fn written(&self) -> Vec<Array> {
        match self {
            Self::Cpu(_) => Vec::new(),
            Self::Mlx(step) => step.written(),
        }
    }
}

#[cfg(test)]
mod tests;
