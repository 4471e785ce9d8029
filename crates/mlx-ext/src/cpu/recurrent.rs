//! Layers that keep a state of each sequence, and the memory of states.

use std::{ffi::c_int, ptr::NonNull};

use mlx_rs::{Array, error::Exception};

use super::{
    array_from, context,
    foreign::{
        ABSENT, RawConvolution, RawGatedDelta, RawStatePool, RawStateRow, RawStateSnapshot, RawStateStep,
        mlx_ext_convolution, mlx_ext_gated_delta, mlx_ext_state_pool_free, mlx_ext_state_pool_new,
        mlx_ext_state_step_free, mlx_ext_state_step_new,
    },
};

/// States of sequences, each all layers'. What a step reads it leaves as it is. A state takes memory from the first write
/// on, and keeps it.
#[derive(Debug)]
pub struct StatePool {
    raw: NonNull<RawStatePool>,
    states: i32,
}

/// The rows of one step, which all of its layers share, and the pool that has their states.
#[derive(Debug)]
pub struct StateStep {
    raw: NonNull<RawStateStep>,
}

/// One sequence's part of a step.
#[derive(Debug, Clone, Copy)]
pub struct StateRow<'a> {
    /// Its new tokens; they follow those of the rows before.
    pub new_tokens: i32,
    /// The state that it goes on from. `None`: the sequence begins.
    pub from: Option<i32>,
    /// The state that is written behind the last of its tokens.
    pub to: i32,
    /// States that are written behind so many of its tokens, but not all: pairs of both, in order.
    pub snapshots: &'a [(i32, i32)],
}

/// A causal convolution of each channel by itself.
#[derive(Debug, Clone, Copy)]
pub struct Convolution<'a> {
    /// float32 `[tokens, channels]`, or `[tokens, 3 * channels]` if it is gated; contiguous.
    pub x: &'a Array,
    /// float32 `[taps, channels]`, the oldest input's first; contiguous.
    pub weight: &'a Array,
    /// float32 `[channels]`, contiguous.
    pub bias: Option<&'a Array>,
    /// The input is the product of the first and the last part of `x`, and the result is multiplied by the one between.
    pub gated: bool,
    /// The sum goes through `x sigmoid(x)`.
    pub silu: bool,
    /// Where in a state its own lies, in floats: the last `taps - 1` inputs.
    pub state_at: usize,
}

/// The gated delta rule (Yang, Kautz, Hatamizadeh, "Gated Delta Networks", 2024): of each head of values a matrix that
/// fades, learns what a key stands for, and is asked by a query.
#[derive(Debug, Clone, Copy)]
pub struct GatedDelta<'a> {
    /// float32 `[tokens, 2 * key_heads * key_dim + value_heads * value_dim]`: queries, keys and values; contiguous.
    pub qkv: &'a Array,
    /// float32 `[tokens, 2 * value_heads]`: what learns as much as sigmoid of it says, then what fades; contiguous.
    pub gates: &'a Array,
    /// float32 `[value_heads]`: logarithms of the rates of fading.
    pub log_rates: &'a Array,
    /// float32 `[value_heads]`: of the gates that fade.
    pub biases: &'a Array,
    /// Heads of queries and keys; divides that of values.
    pub key_heads: i32,
    /// Heads of values.
    pub value_heads: i32,
    /// Components of a query or key.
    pub key_dim: i32,
    /// Components of a value.
    pub value_dim: i32,
    /// Where in a state its own lies, in floats: `value_heads * key_dim * value_dim`.
    pub state_at: usize,
}

impl StatePool {
    /// Reserves address space for `states` states of `floats` floats each.
    ///
    /// # Errors
    /// The system has no such space, or a number is not positive.
    pub fn new(floats: usize, states: i32) -> Result<Self, Exception> {
        let problem =
            || Exception::custom(format!("no address space for {states} states of {floats} numbers"));
        if floats < 1 || states < 1 {
            return Err(problem());
        }
        if !cfg!(target_os = "linux") {
            return Err(Exception::custom(ABSENT.to_string_lossy()));
        }
        // SAFETY: plain numbers, checked above.
        let raw = NonNull::new(unsafe { mlx_ext_state_pool_new(floats, states) }).ok_or_else(problem)?;
        Ok(Self { raw, states })
    }

    /// The rows of a step, for its layers.
    ///
    /// # Errors
    /// A row has no tokens, or its snapshots are not within them and in order; or a state is not in the pool, is
    /// written twice, or is read and written.
    pub fn step(&self, rows: &[StateRow<'_>]) -> Result<StateStep, Exception> {
        self.check(rows)?;
        let raw_row = |row: &StateRow<'_>| RawStateRow {
            new_tokens: row.new_tokens,
            from: row.from.unwrap_or(-1),
            to: row.to,
            snapshot_count: row.snapshots.len() as c_int,
        };
        let raw_rows: Vec<RawStateRow> = rows.iter().map(raw_row).collect();
        let snapshots = rows.iter().flat_map(|row| row.snapshots);
        let snapshots: Vec<RawStateSnapshot> =
            snapshots.map(|&(after, to)| RawStateSnapshot { after, to }).collect();
        // SAFETY: pointers and lengths are those of live vectors, which C++ copies; the rows were checked above.
        let raw = unsafe {
            mlx_ext_state_step_new(
                self.raw.as_ptr(),
                raw_rows.as_ptr(),
                raw_rows.len() as c_int,
                snapshots.as_ptr(),
                snapshots.len() as c_int,
            )
        };
        let raw = NonNull::new(raw).ok_or_else(|| Exception::custom("out of memory".to_owned()))?;
        Ok(StateStep { raw })
    }

    /// Tasks of several threads work on the rows at the same time, in no particular order.
    fn check(&self, rows: &[StateRow<'_>]) -> Result<(), Exception> {
        let states = self.states.unsigned_abs() as usize;
        let index = |state: i32| {
            let index = usize::try_from(state).ok().filter(|&index| index < states);
            index.ok_or_else(|| Exception::custom(format!("state {state} is not in a pool of {states}")))
        };
        let mut tokens: c_int = 0;
        let mut written = vec![false; states];
        for row in rows {
            let inside = |&(after, _): &(i32, i32)| (1..row.new_tokens).contains(&after);
            let in_order = row.snapshots.windows(2).all(|two| two[0].0 < two[1].0);
            if row.new_tokens < 1 || !row.snapshots.iter().all(inside) || !in_order {
                return Err(Exception::custom(format!("a row with a state has no tokens for it: {row:?}")));
            }
            let sum = tokens.checked_add(row.new_tokens);
            tokens = sum.ok_or_else(|| Exception::custom("a step has too many tokens"))?;
            for to in row.snapshots.iter().map(|&(_, to)| to).chain([row.to]) {
                if std::mem::replace(&mut written[index(to)?], true) {
                    return Err(Exception::custom(format!("state {to} is written twice in a step")));
                }
            }
        }
        for from in rows.iter().filter_map(|row| row.from) {
            if written[index(from)?] {
                return Err(Exception::custom(format!("state {from} is read and written in a step")));
            }
        }
        Ok(())
    }
}

/// The result, lazy: float32 `[tokens, channels]`. Evaluating it writes states, of which MLX does not know: evaluate all
/// layers of a step before building the next one that reads them.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn convolution(step: &StateStep, job: &Convolution<'_>) -> Result<Array, Exception> {
    let spec = RawConvolution {
        x: context(Some(job.x)),
        weight: context(Some(job.weight)),
        bias: context(job.bias),
        step: step.raw.as_ptr(),
        state_at: job.state_at,
        gated: job.gated.into(),
        silu: job.silu.into(),
    };
    // SAFETY: step and arrays are borrowed for the call; the primitive shares the ownership of the step's rows and pool,
    // and copies the handles of the arrays. Shapes are checked in C++; the states were, in `StatePool::step`.
    array_from(|message, len| unsafe { mlx_ext_convolution(&raw const spec, message, len) })
}

/// The result, lazy: float32 `[tokens, value_heads * value_dim]`. Writes states like [`convolution`].
///
/// # Errors
/// Shapes or types that do not fit.
pub fn gated_delta(step: &StateStep, job: &GatedDelta<'_>) -> Result<Array, Exception> {
    let spec = RawGatedDelta {
        qkv: context(Some(job.qkv)),
        gates: context(Some(job.gates)),
        log_rates: context(Some(job.log_rates)),
        biases: context(Some(job.biases)),
        step: step.raw.as_ptr(),
        state_at: job.state_at,
        key_heads: job.key_heads,
        value_heads: job.value_heads,
        key_dim: job.key_dim,
        value_dim: job.value_dim,
    };
    // SAFETY: as in `convolution`.
    array_from(|message, len| unsafe { mlx_ext_gated_delta(&raw const spec, message, len) })
}

impl Drop for StatePool {
    fn drop(&mut self) {
        // SAFETY: made by `mlx_ext_state_pool_new`, freed once; primitives hold shares of their own.
        unsafe { mlx_ext_state_pool_free(self.raw.as_ptr()) }
    }
}

impl Drop for StateStep {
    fn drop(&mut self) {
        // SAFETY: made by `mlx_ext_state_step_new`, freed once; primitives hold shares of their own.
        unsafe { mlx_ext_state_step_free(self.raw.as_ptr()) }
    }
}
