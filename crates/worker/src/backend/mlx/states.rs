//! States as arrays, and the rows of a step that read and write them.
//!
//! Rows of one token are computed together, any other row by itself.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mlx_rs::{
    Array, Dtype,
    error::Exception,
    ops::{
        concatenate,
        indexing::{TryIndexOp, take_axis},
        stack, zeros_dtype,
    },
};

use super::{
    super::{Convolution, GatedDelta, recurrent::RowStates},
    gated_delta::learned,
    recurrent::{Computed, convolved},
};

/// The parts of each state, by the state's number. What a step has not evaluated yet is lazy.
type Contents = Arc<Mutex<Vec<Option<Vec<Array>>>>>;

/// The memory of all states. A state takes memory from the first write on, and keeps it.
pub(crate) struct MlxStates {
    contents: Contents,
}

/// The rows of a step.
pub(crate) struct MlxStateStep {
    contents: Contents,
    batches: Vec<Batch>,
    /// Where in the results of all batches each of the step's tokens is; `None`: where it is in the step.
    order: Option<Array>,
    /// What was computed so far: by state and part.
    written: RefCell<BTreeMap<i32, BTreeMap<usize, Array>>>,
}

/// Rows that are computed together: they have as many tokens.
struct Batch {
    rows: Vec<Row>,
    /// Of a row.
    tokens: i32,
}

struct Row {
    /// Its first token in the step.
    first: i32,
    states: RowStates,
    /// The parts of the state that it goes on from.
    from: Option<Vec<Array>>,
}

impl MlxStates {
    pub(crate) fn new(states: i32) -> Self {
        Self { contents: Arc::new(Mutex::new(vec![None; states.max(0).unsigned_abs() as usize])) }
    }

    pub(crate) fn step(&self, rows: Vec<RowStates>) -> MlxStateStep {
        let contents = lock(&self.contents);
        let mut next = 0;
        let mut decodes = Batch { rows: Vec::new(), tokens: 1 };
        let mut others = Vec::new();
        for states in rows {
            let (first, tokens) = (next, states.new_tokens);
            next += tokens;
            let from = states.from.and_then(|from| contents.get(from as usize).cloned().flatten());
            let row = Row { first, states, from };
            if tokens == 1 {
                decodes.rows.push(row);
            } else {
                others.push(Batch { rows: vec![row], tokens });
            }
        }
        let batches: Vec<Batch> =
            [decodes].into_iter().filter(|batch| !batch.rows.is_empty()).chain(others).collect();
        drop(contents);
        let order = order(&batches);
        MlxStateStep { contents: Arc::clone(&self.contents), batches, order, written: RefCell::default() }
    }
}

impl MlxStateStep {
    pub(crate) fn convolve(&self, job: &Convolution, x: &Array) -> Result<Array, Exception> {
        let (taps, channels) = (job.weight.dim(0), job.weight.dim(1));
        self.each_batch(job.part, (&[taps - 1, channels], job.weight.dtype()), |batch, before| {
            convolved(job, &batch.part(x)?, before, &batch.ends())
        })
    }

    pub(crate) fn gated_delta(
        &self,
        job: &GatedDelta,
        qkv: &Array,
        gates: &Array,
    ) -> Result<Array, Exception> {
        let heads = job.heads;
        let shape = [heads.values, heads.key_dim, heads.value_dim];
        self.each_batch(job.part, (&shape, Dtype::Float32), |batch, before| {
            learned(job, &batch.part(qkv)?, &batch.part(gates)?, before, &batch.ends())
        })
    }

    /// Computes one layer, whose part of a state has this shape and type, of each batch.
    fn each_batch(
        &self,
        part: usize,
        (shape, dtype): (&[i32], Dtype),
        compute: impl Fn(&Batch, &Array) -> Result<Computed, Exception>,
    ) -> Result<Array, Exception> {
        let mut results = Vec::with_capacity(self.batches.len());
        for batch in &self.batches {
            let before: Vec<Array> =
                batch.rows.iter().map(|row| row.before(part, (shape, dtype))).collect::<Result<_, _>>()?;
            let Computed { y, states } = compute(batch, &stack(&before, 0)?)?;
            let width = y.dim(2);
            results.push(y.reshape(&[-1, width])?);
            self.write(batch, part, &states)?;
        }
        let all = match &results[..] {
            [one] => one.clone(),
            several => concatenate(several, 0)?,
        };
        self.order.as_ref().map_or(Ok(all.clone()), |order| take_axis(&all, order, 0))
    }

    /// `states` are those behind the batch's ends, `[rows, …]` each.
    fn write(&self, batch: &Batch, part: usize, states: &[Array]) -> Result<(), Exception> {
        let mut written = self.written.borrow_mut();
        for (index, row) in batch.rows.iter().enumerate() {
            for (to, states) in row.states.written().zip(states) {
                // A view would keep what it is a part of.
                let own = states.try_index(index as i32)?.contiguous()?;
                written.entry(to).or_default().insert(part, own);
            }
        }
        Ok(())
    }

    /// Everything that was written, to be evaluated with the step's results. It belongs to its states from now on.
    pub(crate) fn written(&self) -> Vec<Array> {
        let mut contents = lock(&self.contents);
        let mut all = Vec::new();
        for (state, parts) in self.written.take() {
            let parts: Vec<Array> = parts.into_values().collect();
            all.extend(parts.iter().cloned());
            if let Some(place) = usize::try_from(state).ok().and_then(|state| contents.get_mut(state)) {
                *place = Some(parts);
            }
        }
        all
    }
}

impl Batch {
    /// The rows of `x` `[tokens, width]`: `[rows, tokens, width]`.
    fn part(&self, x: &Array) -> Result<Array, Exception> {
        let shape = [self.rows.len() as i32, self.tokens, x.dim(1)];
        let tokens: Vec<Range<i32>> =
            self.rows.iter().map(|row| row.first..row.first + self.tokens).collect();
        let neighbours = tokens.windows(2).all(|two| two[0].end == two[1].start);
        if let ([first, ..], true) = (&tokens[..], neighbours) {
            let all = first.start..first.start + shape[0] * shape[1];
            let own = if all == (0..x.dim(0)) { x.clone() } else { x.try_index(all)? };
            return own.reshape(&shape);
        }
        let indices: Vec<u32> = tokens.into_iter().flatten().map(|token| token as u32).collect();
        take_axis(x, Array::from_slice(&indices, &[indices.len() as i32]), 0)?.reshape(&shape)
    }

    /// Behind how many of a row's tokens states are written. Rows that are computed together have a single token.
    fn ends(&self) -> Vec<i32> {
        let snapshots = self.rows.iter().take(1).flat_map(|row| &row.states.snapshots);
        snapshots.map(|&(after, _)| after).chain([self.tokens]).collect()
    }
}

impl Row {
    fn before(&self, part: usize, (shape, dtype): (&[i32], Dtype)) -> Result<Array, Exception> {
        match &self.from {
            None if self.states.from.is_none() => zeros_dtype(shape, dtype),
            from => from
                .as_ref()
                .and_then(|parts| parts.get(part))
                .cloned()
                .ok_or_else(|| Exception::custom("a sequence goes on from a state that was not written")),
        }
    }
}

impl RowStates {
    /// Numbers of the states that are written, in the order of tokens.
    fn written(&self) -> impl Iterator<Item = i32> {
        self.snapshots.iter().map(|&(_, to)| to).chain([self.to])
    }
}

fn lock(contents: &Contents) -> MutexGuard<'_, Vec<Option<Vec<Array>>>> {
    contents.lock().unwrap_or_else(PoisonError::into_inner)
}

fn order(batches: &[Batch]) -> Option<Array> {
    let rows = |batch: &'_ Batch| -> Vec<i32> {
        batch.rows.iter().flat_map(|row| row.first..row.first + batch.tokens).collect()
    };
    let tokens: Vec<i32> = batches.iter().flat_map(rows).collect();
    if tokens.is_sorted() {
        return None;
    }
    let mut order = vec![0_u32; tokens.len()];
    for (index, &token) in tokens.iter().enumerate() {
        order[token as usize] = index as u32;
    }
    Some(Array::from_slice(&order, &[order.len() as i32]))
}
