//! Sequences in blocks of a pool, and their attention in float64.

use mlx_ext::cpu::{self, KvDtype, KvPool, KvShape};
use mlx_rs::{
    Array,
    ops::{concatenate, indexing::TryIndexOp},
};

use super::{Expected, ROUNDING, Random, bits, exponential, number, product, wide};

/// Layers of the pools here; one of them is used.
const LAYERS: i32 = 2;
const LAYER: i32 = 1;

/// What a model's attention is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) kv_heads: i32,
    /// Query heads of each of these.
    pub(crate) group: i32,
    pub(crate) head_dim: i32,
    /// Leading pairs of components that are rotated.
    pub(crate) pairs: i32,
    pub(crate) traditional: bool,
    pub(crate) window: Option<i32>,
    pub(crate) chunked: bool,
    /// [`expected`] knows of none.
    pub(crate) soft_cap: Option<f32>,
    pub(crate) sinks: bool,
    pub(crate) dtype: KvDtype,
}

impl Spec {
    pub(crate) fn heads(self) -> i32 {
        self.kv_heads * self.group
    }

    pub(crate) fn width(self) -> i32 {
        (self.heads() + 2 * self.kv_heads) * self.head_dim
    }

    pub(crate) fn scale(self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// float32 `[heads]`: about as large as scores are.
    fn sink_scores(self) -> Option<Array> {
        let scores: Vec<f32> = (0..self.heads()).map(|head| (head % 7) as f32 - 2.0).collect();
        self.sinks.then(|| Array::from_slice(&scores, &[self.heads()]))
    }
}

/// Cosines and sines by position: float32 `[positions, pairs]`.
pub(crate) struct Rotation {
    pub(crate) cos: Array,
    pub(crate) sin: Array,
}

impl Rotation {
    pub(crate) fn new(spec: Spec, positions: i32) -> Self {
        let angle = |i: i32| {
            let (position, pair) = (i / spec.pairs, i % spec.pairs);
            f64::from(position) * 10_000_f64.powf(-f64::from(pair) / f64::from(spec.pairs))
        };
        Self::of(spec, positions, angle)
    }

    /// By no angle, so that rotating rounds nothing.
    pub(crate) fn none(spec: Spec, positions: i32) -> Self {
        Self::of(spec, positions, |_| 0.0)
    }

    fn of(spec: Spec, positions: i32, angle: impl Fn(i32) -> f64) -> Self {
        let table = |of: fn(f64) -> f64| {
            let values: Vec<f32> = (0..positions * spec.pairs).map(|i| of(angle(i)) as f32).collect();
            Array::from_slice(&values, &[positions, spec.pairs])
        };
        Self { cos: table(f64::cos), sin: table(f64::sin) }
    }
}

/// Sequences whose keys and values are in one pool, in blocks that lie anywhere.
pub(crate) struct Server<'a> {
    spec: Spec,
    rotation: &'a Rotation,
    pool: KvPool,
    tables: Vec<Vec<i32>>,
}

impl<'a> Server<'a> {
    pub(crate) fn new(random: &mut Random, spec: Spec, rotation: &'a Rotation, lengths: &[i32]) -> Self {
        let blocks_of = |length: &i32| *length as usize / KvPool::BLOCK_TOKENS + 1;
        let blocks: usize = lengths.iter().map(blocks_of).sum();
        let mut free = random.shuffled(blocks as i32);
        let tables = lengths.iter().map(|length| free.split_off(free.len() - blocks_of(length))).collect();
        let Spec { kv_heads, head_dim, dtype, .. } = spec;
        let shape = KvShape { layers: LAYERS, kv_heads, head_dim, dtype };
        Self { spec, rotation, pool: KvPool::new(shape, blocks as i32).unwrap(), tables }
    }

    /// The first `blocks` blocks of one sequence become another's, too.
    pub(crate) fn share(&mut self, from: usize, to: usize, blocks: usize) {
        let shared = self.tables[from][..blocks].to_vec();
        self.tables[to][..blocks].copy_from_slice(&shared);
    }

    /// A sequence gets a copy of another's block in place of its own.
    pub(crate) fn copy(&self, from: usize, to: usize, block: usize) {
        self.pool.copy_block(self.tables[from][block], self.tables[to][block]).unwrap();
    }

    /// The same by way of bytes outside of the pool.
    pub(crate) fn carry(&self, from: usize, to: usize, block: usize) {
        let mut bytes = vec![0; KvPool::block_bytes(self.pool.shape()) as usize];
        self.pool.read_block(self.tables[from][block], &mut bytes).unwrap();
        self.pool.write_block(self.tables[to][block], &bytes).unwrap();
        assert!(self.pool.read_block(-1, &mut bytes).is_err());
        assert!(self.pool.write_block(self.tables[to][block], &bytes[1..]).is_err());
    }

    /// A sequence's blocks without those that no query from a position on sees.
    fn seen_blocks(&self, sequence: usize, position: i32) -> Vec<i32> {
        let first = match self.spec.window {
            None => 0,
            Some(chunk) if self.spec.chunked => position / chunk * chunk,
            Some(window) => (position + 1 - window).max(0),
        };
        let unseen = first as usize / KvPool::BLOCK_TOKENS;
        let block = |(index, &block): (usize, &i32)| if index < unseen { KvPool::NO_BLOCK } else { block };
        self.tables[sequence].iter().enumerate().map(block).collect()
    }

    /// One step: for each row the sequence, its tokens so far, and the projections of its new ones. Returns the rows'
    /// outputs.
    pub(crate) fn step(&self, rows: &[(usize, i32, Array)]) -> Vec<Array> {
        let tables: Vec<Vec<i32>> =
            rows.iter().map(|(sequence, position, _)| self.seen_blocks(*sequence, *position)).collect();
        let step_rows = rows.iter().zip(&tables).map(|((_, position, qkv), blocks)| cpu::StepRow {
            new_tokens: qkv.dim(0),
            position: *position,
            blocks,
        });
        let step = self.pool.step(&step_rows.collect::<Vec<_>>()).unwrap();
        let qkv = concatenate(&rows.iter().map(|(.., qkv)| qkv).collect::<Vec<_>>(), 0).unwrap();
        let sinks = self.spec.sink_scores();
        let attention = cpu::Attention {
            qkv: &qkv,
            appends: true,
            cos: &self.rotation.cos,
            sin: &self.rotation.sin,
            layer: LAYER,
            heads: self.spec.heads(),
            query_scale: None,
            sinks: sinks.as_ref(),
            soft_cap: self.spec.soft_cap,
            scale: self.spec.scale(),
            window: self.spec.window,
            chunked: self.spec.chunked,
            traditional: self.spec.traditional,
        };
        let out = step.attend(&attention).unwrap();
        out.eval().unwrap();
        // The same queries meet what has been appended.
        let of_queries = 0..self.spec.heads() * self.spec.head_dim;
        let queries = cpu::columns(&qkv, std::slice::from_ref(&of_queries)).unwrap();
        let again = step.attend(&cpu::Attention { qkv: &queries, appends: false, ..attention }).unwrap();
        assert!(again.eval().is_ok() && bits(&again) == bits(&out), "{:?}", self.spec);
        let mut first = 0;
        let part = |(.., qkv): &(usize, i32, Array)| {
            first += qkv.dim(0);
            out.try_index(first - qkv.dim(0)..first).unwrap()
        };
        rows.iter().map(part).collect()
    }

    /// Runs all sequences to their ends and returns their outputs. `new_tokens` says how many a sequence gets in a step:
    /// 0 leaves it out.
    pub(crate) fn run(&self, sequences: &[Array], mut new_tokens: impl FnMut() -> i32) -> Vec<Array> {
        let mut done = vec![0; sequences.len()];
        let mut outs = vec![Vec::new(); sequences.len()];
        while done.iter().zip(sequences).any(|(done, qkv)| *done < qkv.dim(0)) {
            let mut rows = Vec::new();
            for (i, qkv) in sequences.iter().enumerate() {
                let new = new_tokens().min(qkv.dim(0) - done[i]);
                if new > 0 {
                    rows.push((i, done[i], qkv.try_index(done[i]..done[i] + new).unwrap()));
                }
            }
            if rows.is_empty() {
                continue;
            }
            for ((i, _, qkv), out) in rows.iter().zip(self.step(&rows)) {
                done[*i] += qkv.dim(0);
                outs[*i].push(out);
            }
        }
        outs.iter().map(|parts| concatenate(parts, 0).unwrap()).collect()
    }
}

/// Attention of one whole sequence, from its projections `[tokens, width]`.
pub(crate) fn expected(spec: Spec, qkv: &Array, rotation: &Rotation) -> Expected {
    let Spec { kv_heads, group, head_dim, .. } = spec;
    let tokens = qkv.dim(0);
    let heads = wide(qkv).reshape(&[tokens, spec.heads() + 2 * kv_heads, head_dim]).unwrap();
    let heads = heads.swap_axes(0, 1).unwrap();
    // [kv_heads, heads of each, tokens, head_dim]
    let part = |from: i32, to: i32, each: i32| {
        heads.try_index(from..to).unwrap().reshape(&[kv_heads, each, tokens, head_dim]).unwrap()
    };
    let (queries, keys) = (part(0, spec.heads(), group), part(spec.heads(), spec.heads() + kv_heads, 1));
    let values = part(spec.heads() + kv_heads, spec.heads() + 2 * kv_heads, 1);

    let rotated = |x: &Array| rotate(spec, x, rotation, -1.0);
    // Of what is added up for a component, without signs.
    let sizes = |x: &Array| {
        let sizes = Rotation { cos: rotation.cos.abs().unwrap(), sin: rotation.sin.abs().unwrap() };
        rotate(spec, &x.abs().unwrap(), &sizes, 1.0)
    };
    let scale = number(f64::from(spec.scale()));
    let scores = product(&rotated(&queries), &rotated(&keys)) * &scale;
    let (query_sizes, key_sizes) = (sizes(&queries), sizes(&keys));
    let score_error = score_error(spec, &query_sizes, &key_sizes) * scale;

    let hidden = hidden(spec, tokens);
    let scores = scores + &hidden;
    let largest = scores.max_axis(-1, true).unwrap();
    let weights = exponential(&(&scores - &largest));
    let mut sum = weights.sum_axis(-1, true).unwrap();
    if let Some(sinks) = spec.sink_scores() {
        let sinks = wide(&sinks).reshape(&[kv_heads, group, 1, 1]).unwrap();
        sum += &exponential(&(sinks - largest));
    }
    let weights = weights / sum;
    // The largest error among the keys that a query sees: hidden ones become minus infinity.
    let score_error = (score_error + hidden).max_axis(-1, true).unwrap();
    let value_sizes = values.abs().unwrap();
    let averaged = weights.matmul(&value_sizes).unwrap();
    let error = output_error(spec, &score_error, &averaged, tokens);
    let joined = |x: Array| {
        x.transpose_axes(&[2, 0, 1, 3]).unwrap().reshape(&[tokens, spec.heads() * head_dim]).unwrap()
    };
    Expected { value: joined(weights.matmul(&values).unwrap()), error: joined(error) }
}

/// Of scores before scaling. Rotating rounds three times, the factor of the queries twice, each step of the chain over
/// the components once (twice without an instruction for it), and taking the largest score from all others twice; keys
/// in float16 lose 2^-11 of their size, or 2^-25.
fn score_error(spec: Spec, query_sizes: &Array, key_sizes: &Array) -> Array {
    let roundings = f64::from(2 * spec.head_dim + 12) * ROUNDING;
    let in_float32 = product(query_sizes, key_sizes) * number(roundings);
    if spec.dtype == KvDtype::Float32 {
        return in_float32;
    }
    let lost = key_sizes * number(2_f64.powi(-11)) + number(2_f64.powi(-25));
    in_float32 + product(query_sizes, &lost)
}

/// A weight's relative error is that of the exponential of its score, of the exponential of the largest one, and some
/// roundings. They count twice, in the sum of values and in the sum of weights. Both sums are chains over all keys, with
/// two roundings a step and some more where partitions of keys are folded. `averaged` are the values' sizes, weighted.
fn output_error(spec: Spec, score_error: &Array, averaged: &Array, tokens: i32) -> Array {
    let of_weight = exponential(&(score_error * number(2.0))) - number(1.0) + number(6.0 * ROUNDING);
    let chains = f64::from(4 * tokens + 40) * ROUNDING;
    let (lost, smallest) = match spec.dtype {
        KvDtype::Float32 => (0.0, 1e-35),
        KvDtype::Float16 => (2_f64.powi(-11), 2_f64.powi(-25)),
    };
    averaged * (of_weight * number(2.0) + number(chains + lost)) + number(smallest)
}

/// 0 where a query sees a key, minus infinity elsewhere: `[tokens, tokens]`.
fn hidden(spec: Spec, tokens: i32) -> Array {
    let sees = |query: i32, key: i32| {
        key <= query
            && match spec.window {
                None => true,
                Some(chunk) if spec.chunked => query / chunk == key / chunk,
                Some(window) => query - key < window,
            }
    };
    let cell = |i: i32| if sees(i / tokens, i % tokens) { 0.0 } else { f64::NEG_INFINITY };
    let values: Vec<f64> = (0..tokens * tokens).map(cell).collect();
    Array::from_slice_f64(&values, &[tokens, tokens])
}

/// `[.., tokens, head_dim]`: pairs `(a, b)` become `(a cos + sign b sin, b cos + a sin)`.
fn rotate(spec: Spec, x: &Array, rotation: &Rotation, sign: f64) -> Array {
    let (pairs, tokens) = (spec.pairs, x.dim(-2));
    let table = |array: &Array| wide(&array.try_index(0..tokens).unwrap());
    let (cos, sin) = (table(&rotation.cos), table(&rotation.sin));
    let columns = |from: i32, to: i32| x.try_index((.., .., .., from..to)).unwrap();
    let turned = columns(0, 2 * pairs);
    let (a, b) = if spec.traditional {
        let apart = turned.reshape(&[x.dim(0), x.dim(1), tokens, pairs, 2]).unwrap();
        let place = |i: i32| apart.try_index((.., .., .., .., i)).unwrap();
        (place(0), place(1))
    } else {
        (columns(0, pairs), columns(pairs, 2 * pairs))
    };
    let first = &a * &cos + &b * &sin * number(sign);
    let second = &b * &cos + &a * &sin;
    let turned = if spec.traditional {
        mlx_rs::ops::stack(&[first, second], -1).unwrap().reshape(turned.shape()).unwrap()
    } else {
        concatenate(&[first, second], -1).unwrap()
    };
    if 2 * pairs == spec.head_dim {
        return turned;
    }
    concatenate(&[turned, columns(2 * pairs, spec.head_dim)], -1).unwrap()
}
