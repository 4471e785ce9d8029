//! Keys and values: memory for all sequences, and what one sequence has of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mlx_ext::cpu::{KvPool, KvShape};
use mlx_rs::{
    Array, Dtype,
    error::Exception,
    ops::{
        concatenate,
        indexing::{TryIndexMutOp, TryIndexOp},
        zeros_dtype,
    },
};

use super::{Kernels, ModelError};

/// Without a pool, room is added for so many tokens at a time.
const GROWTH: usize = 256;

/// Memory for keys and values that a worker may use.
#[derive(Debug, Clone, Copy)]
pub struct KvBudget {
    /// Bytes, over all sequences.
    pub bytes: u64,
    /// Sequences that hold some at the same time.
    pub sequences: usize,
    /// Whether [`Kernels::Own`] keep float16 instead of float32, so that twice as many tokens fit. MLX's operations
    /// keep what they compute with.
    pub half: bool,
}

/// Where sequences get their memory from.
pub(super) struct KvCache {
    kind: CacheKind,
    shape: KvShape,
    tokens: usize,
}

enum CacheKind {
    /// Blocks of one pool: no copying, no fragmentation.
    Paged(Arc<Blocks>),
    /// Arrays of each sequence's own.
    Grown,
}

/// The pool and its unused blocks, the last used ones last: their memory is warm.
pub(super) struct Blocks {
    pub(super) pool: KvPool,
    free: Mutex<Vec<i32>>,
}

/// What attention remembers of a sequence, in every layer.
pub struct SequenceKv {
    kind: SequenceKind,
    len: usize,
    /// Arrays have been changed, and the change has not been counted yet.
    appending: bool,
}

enum SequenceKind {
    Paged { blocks: Vec<i32>, owner: Arc<Blocks> },
    Grown { layers: Vec<LayerKv>, shape: KvShape },
}

/// `[1, kv_heads, room, head_dim]` keys and values, of which the first `len` tokens count; `None` before the first.
///
/// Appending writes in place: between steps nothing else refers to an array, so MLX takes its
/// memory for the result instead of copying it.
#[derive(Default)]
struct LayerKv {
    keys_values: Option<(Array, Array)>,
}

impl KvCache {
    pub(super) fn new(shape: KvShape, budget: KvBudget, kernels: Kernels) -> Result<Self, ModelError> {
        // The kernel's vectors have eight lanes; odd models get MLX's attention, which keeps what it computes with.
        let paged = kernels.are_own() && shape.head_dim % 8 == 0;
        let shape = KvShape { half: if paged { budget.half } else { shape.half }, ..shape };
        let block_bytes = KvPool::block_bytes(shape).max(1);
        let blocks = i32::try_from(budget.bytes / block_bytes).unwrap_or(i32::MAX);
        // The last block of each sequence may be partly empty: what is promised is there in any case.
        let usable = (blocks as usize).saturating_sub(budget.sequences);
        if usable == 0 {
            return Err(ModelError::KvBudget {
                bytes: budget.bytes,
                needed: block_bytes.saturating_mul((budget.sequences as u64).saturating_add(1)),
            });
        }
        let tokens = usable * KvPool::BLOCK_TOKENS;
        let kind = if paged {
            let pool = KvPool::new(shape, blocks)?;
            CacheKind::Paged(Arc::new(Blocks { pool, free: Mutex::new((0..blocks).rev().collect()) }))
        } else {
            CacheKind::Grown
        };
        Ok(Self { kind, shape, tokens })
    }

    /// Tokens for which there is memory, however many sequences of the budget hold them.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// An empty sequence.
    pub(super) fn sequence(&self) -> SequenceKv {
        let kind = match &self.kind {
            CacheKind::Paged(owner) => SequenceKind::Paged { blocks: Vec::new(), owner: Arc::clone(owner) },
            CacheKind::Grown => {
                let layers =
                    std::iter::repeat_with(LayerKv::default).take(self.shape.layers as usize).collect();
                SequenceKind::Grown { layers, shape: self.shape }
            }
        };
        SequenceKv { kind, len: 0, appending: false }
    }

    /// The pool, where there is one.
    pub(super) fn blocks(&self) -> Option<&Blocks> {
        match &self.kind {
            CacheKind::Paged(blocks) => Some(blocks),
            CacheKind::Grown => None,
        }
    }
}

impl Blocks {
    fn free(&self) -> MutexGuard<'_, Vec<i32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SequenceKv {
    /// Tokens that the sequence has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the sequence has no tokens.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the tokens it has can be gone on with after a step that failed. In a pool nothing is written but behind
    /// them; arrays that a failed step has changed are unusable.
    pub fn is_intact(&self) -> bool {
        !self.appending
    }

    /// Forgets every token from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        if let SequenceKind::Paged { blocks, owner } = &mut self.kind {
            let kept = self.len.div_ceil(KvPool::BLOCK_TOKENS);
            owner.free().extend(blocks.drain(kept..).rev());
        }
    }

    /// Makes sure of blocks for `new` more tokens, and returns all of the sequence's; none where there is no pool.
    pub(super) fn reserve(&mut self, new: usize) -> Result<&[i32], ModelError> {
        let SequenceKind::Paged { blocks, owner } = &mut self.kind else { return Ok(&[]) };
        let needed = (self.len + new).div_ceil(KvPool::BLOCK_TOKENS);
        let mut free = owner.free();
        while blocks.len() < needed {
            blocks.push(free.pop().ok_or(ModelError::KvFull)?);
        }
        Ok(blocks)
    }

    /// Counts `tokens` that every layer has appended.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
        self.appending = false;
    }

    /// Puts new keys and values, `[1, kv_heads, new, head_dim]`, behind the `len` tokens of a layer, and returns views
    /// of everything up to them. [`advance`](Self::advance) counts them once every layer has them.
    pub(super) fn append(
        &mut self,
        layer: usize,
        keys: &Array,
        values: &Array,
    ) -> Result<(Array, Array), Exception> {
        let SequenceKind::Grown { layers, shape } = &mut self.kind else {
            return Err(Exception::custom("a paged sequence is appended to by its attention"));
        };
        self.appending = true;
        let room = |tokens, dtype: Dtype| zeros_dtype(&[1, shape.kv_heads, tokens, shape.head_dim], dtype);
        let start = self.len as i32;
        let end = start + keys.dim(2);
        let enough = (end as usize).next_multiple_of(GROWTH) as i32;
        let (mut all_keys, mut all_values) = match layers[layer].keys_values.take() {
            None => (room(enough, keys.dtype())?, room(enough, values.dtype())?),
            Some((old_keys, old_values)) if old_keys.dim(2) < end => {
                let more = enough - old_keys.dim(2);
                let keys = concatenate(&[&old_keys, &room(more, keys.dtype())?], 2)?;
                let values = concatenate(&[&old_values, &room(more, values.dtype())?], 2)?;
                (keys, values)
            }
            Some(kept) => kept,
        };
        all_keys.try_index_mut((.., .., start..end, ..), keys)?;
        all_values.try_index_mut((.., .., start..end, ..), values)?;
        let views = (all_keys.try_index((.., .., ..end, ..))?, all_values.try_index((.., .., ..end, ..))?);
        layers[layer].keys_values = Some((all_keys, all_values));
        Ok(views)
    }

    /// The arrays that a step has changed and has to evaluate; none of a pool's.
    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        let layers = match &self.kind {
            SequenceKind::Grown { layers, .. } => layers.as_slice(),
            SequenceKind::Paged { .. } => &[],
        };
        layers.iter().filter_map(|layer| layer.keys_values.as_ref()).flat_map(|(k, v)| [k, v])
    }
}

impl Drop for SequenceKv {
    fn drop(&mut self) {
        self.truncate(0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mlx_rs::transforms::eval;

    use super::*;

    const SHAPE: KvShape = KvShape { layers: 1, kv_heads: 2, head_dim: 8, half: false };
    const BUDGET: KvBudget = KvBudget { bytes: 1 << 16, sequences: 2, half: false };

    fn append(kv: &mut SequenceKv, value: f32, tokens: i32) {
        let new = Array::full::<f32>(&[1, 2, tokens, 8], Array::from_f32(value)).unwrap();
        let (keys, values) = kv.append(0, &new, &new).unwrap();
        assert_eq!(keys.shape(), [1, 2, kv.len() as i32 + tokens, 8]);
        // As in a step: the views are used, evaluated, and gone before the next.
        eval([&keys, &values].into_iter().chain(kv.arrays())).unwrap();
        kv.advance(tokens as usize);
    }

    fn addresses(kv: &SequenceKv) -> Vec<usize> {
        kv.arrays().map(|array| array.as_slice::<f32>().as_ptr().addr()).collect()
    }

    #[test]
    fn appending_writes_in_place_until_the_room_is_full() {
        mlx_ext::init().unwrap();
        let mut kv = KvCache::new(SHAPE, BUDGET, Kernels::Mlx).unwrap().sequence();
        append(&mut kv, 1.0, 250);
        let before = addresses(&kv);
        for token in 0..6 {
            append(&mut kv, 2.0 + token as f32, 1);
            assert_eq!(addresses(&kv), before, "copied at token {}", kv.len());
        }
        append(&mut kv, 9.0, 1);
        assert_ne!(addresses(&kv), before, "257 tokens do not fit into 256");
        let keys = kv.arrays().next().unwrap();
        assert_eq!(keys.shape(), [1, 2, 512, 8]);
        let first_head: Vec<f32> = keys.as_slice::<f32>().chunks(8).take(258).map(|token| token[3]).collect();
        assert!(first_head[..250].iter().all(|&value| value == 1.0));
        assert_eq!(first_head[250..], [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0, 0.0]);
    }

    #[test]
    fn blocks_go_round() {
        let cache = KvCache::new(SHAPE, BUDGET, Kernels::Own).unwrap();
        // A block has 32 tokens of 2 heads of 8 float32, keys and values: 4 KiB; two stay in reserve.
        assert_eq!(cache.tokens(), 14 * 32);
        let mut first = cache.sequence();
        assert_eq!(first.reserve(33).unwrap(), [0, 1]);
        first.advance(33);
        let mut second = cache.sequence();
        assert_eq!(second.reserve(1).unwrap(), [2]);
        assert_eq!(first.reserve(31).unwrap(), [0, 1], "the second block has room");
        first.truncate(32);
        assert_eq!(second.reserve(64).unwrap(), [2, 1]);
        drop(first);
        let mut third = cache.sequence();
        assert!(matches!(third.reserve(16 * 32), Err(ModelError::KvFull)));
        drop(third);
        assert_eq!(cache.sequence().reserve(14 * 32).unwrap().len(), 14);
    }
}
