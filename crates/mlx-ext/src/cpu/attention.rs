//! Attention of a whole step over ragged sequences, on keys and values kept in blocks.

use std::{
    ffi::{c_int, c_void},
    ptr::NonNull,
};

use mlx_rs::{Array, error::Exception};

use super::{
    array_from, context,
    foreign::{
        ABSENT, mlx_ext_attention, mlx_ext_kv_pool_free, mlx_ext_kv_pool_new, mlx_ext_step_free,
        mlx_ext_step_new,
    },
};

/// Geometry of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Layers of the model.
    pub layers: i32,
    /// Heads of keys and values.
    pub kv_heads: i32,
    /// Components of a head; a multiple of 8, at most [`KvPool::MAX_HEAD_DIM`].
    pub head_dim: i32,
    /// Keep float16 instead of float32.
    pub half: bool,
}

/// Blocks of keys and values of every layer, [`KvPool::BLOCK_TOKENS`] tokens each. Which block belongs to whom is the
/// owner's business. Memory is used from the first write to a block on, and kept.
#[derive(Debug)]
pub struct KvPool {
    raw: NonNull<RawPool>,
    shape: KvShape,
    blocks: i32,
}

/// The rows of one step, which all of its layers share, and the pool that has their blocks.
#[derive(Debug)]
pub struct Step {
    raw: NonNull<RawStep>,
}

/// One sequence's part of a step.
#[derive(Debug, Clone, Copy)]
pub struct StepRow<'a> {
    /// Its new tokens; they follow those of the rows before.
    pub new_tokens: i32,
    /// Tokens that its blocks hold already.
    pub position: i32,
    /// Its blocks, enough for all of its tokens. No other row of the step may have one of them.
    pub blocks: &'a [i32],
}

/// Attention of one layer.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// float32 `[tokens, (heads + 2 * kv_heads) * head_dim]`: queries, keys and values, contiguous.
    pub qkv: &'a Array,
    /// float32 `[positions, pairs]`: cosines of the rotation by position.
    pub cos: &'a Array,
    /// Its sines.
    pub sin: &'a Array,
    /// Which layer's part of the blocks.
    pub layer: i32,
    /// Query heads.
    pub heads: i32,
    /// Factor of the scores.
    pub scale: f32,
    /// How many of the latest tokens a query sees; `None`: all.
    pub window: Option<i32>,
    /// Rotate neighbours instead of halves.
    pub traditional: bool,
}

impl KvPool {
    /// Tokens of a block.
    pub const BLOCK_TOKENS: usize = 32;

    /// Most components of a head. Published models have up to 576; threads keep scratch memory of some hundred times as
    /// many floats.
    pub const MAX_HEAD_DIM: i32 = 4096;

    /// Reserves address space for `blocks` blocks.
    ///
    /// # Errors
    /// The system has no such space, or a dimension is not positive.
    pub fn new(shape: KvShape, blocks: i32) -> Result<Self, Exception> {
        let KvShape { layers, kv_heads, head_dim, half } = shape;
        let heads_fit = (8..=Self::MAX_HEAD_DIM).contains(&head_dim) && head_dim % 8 == 0;
        if layers < 1 || kv_heads < 1 || !heads_fit || blocks < 1 {
            return Err(Exception::custom(format!("no room for {blocks} blocks of {shape:?}")));
        }
        if !cfg!(target_os = "linux") {
            return Err(Exception::custom(ABSENT.to_string_lossy()));
        }
        // SAFETY: plain numbers, checked above.
        let raw = unsafe {
            mlx_ext_kv_pool_new(layers, kv_heads, head_dim, Self::BLOCK_TOKENS as c_int, half.into(), blocks)
        };
        let raw = NonNull::new(raw)
            .ok_or_else(|| Exception::custom(format!("no address space for {blocks} blocks of {shape:?}")))?;
        Ok(Self { raw, shape, blocks })
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> i32 {
        self.blocks
    }

    /// Bytes that one block takes in all layers together; `u64::MAX` if they are more than that.
    pub fn block_bytes(shape: KvShape) -> u64 {
        let KvShape { layers, kv_heads, head_dim, half } = shape;
        let values = [layers, kv_heads, head_dim].map(|n| u64::from(n.unsigned_abs()));
        let value_bytes = if half { 2 } else { 4 };
        // Keys and values.
        values.into_iter().fold(2 * Self::BLOCK_TOKENS as u64 * value_bytes, u64::saturating_mul)
    }

    /// The rows of a step, for [`Step::attend`].
    ///
    /// # Errors
    /// A row has no tokens, too few blocks, or a block that is not in the pool or another row's.
    pub fn step(&self, rows: &[StepRow<'_>]) -> Result<Step, Exception> {
        let (mut raw_rows, mut blocks) = (Vec::with_capacity(rows.len()), Vec::new());
        let mut tokens: c_int = 0;
        for row in rows {
            let needed = i64::from(row.position) + i64::from(row.new_tokens);
            let room = row.blocks.len() as i64 * Self::BLOCK_TOKENS as i64;
            if row.position < 0 || row.new_tokens < 1 || room < needed {
                return Err(Exception::custom(format!("a step row has too few blocks: {row:?}")));
            }
            let first_block = blocks.len() as c_int;
            raw_rows.push(RawRow {
                first_token: tokens,
                new_tokens: row.new_tokens,
                position: row.position,
                first_block,
            });
            blocks.extend_from_slice(row.blocks);
            tokens = tokens
                .checked_add(row.new_tokens)
                .ok_or_else(|| Exception::custom("a step has too many tokens"))?;
        }
        let mut sorted = blocks.clone();
        sorted.sort_unstable();
        let inside = sorted.iter().all(|block| (0..self.blocks).contains(block));
        if !inside || sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Exception::custom(
                "a step's blocks must be in the pool, and each one row's".to_owned(),
            ));
        }
        // SAFETY: pointers and lengths are those of live vectors, which C++ copies; the rows were checked above.
        let raw = unsafe {
            mlx_ext_step_new(
                self.raw.as_ptr(),
                raw_rows.as_ptr(),
                raw_rows.len() as c_int,
                blocks.as_ptr(),
                blocks.len() as c_int,
                tokens,
            )
        };
        let raw = NonNull::new(raw).ok_or_else(|| Exception::custom("out of memory".to_owned()))?;
        Ok(Step { raw })
    }

    /// The geometry.
    pub fn shape(&self) -> KvShape {
        self.shape
    }
}

impl Step {
    /// Rotates queries and keys, writes keys and values into the rows' blocks, and attends causally. Lazy:
    /// float32 `[tokens, heads * head_dim]`.
    ///
    /// Evaluating it changes the pool, of which MLX does not know: evaluate all layers of a step before building the
    /// next one that has the same sequences.
    ///
    /// # Errors
    /// Shapes or types that do not fit.
    pub fn attend(&self, attention: &Attention<'_>) -> Result<Array, Exception> {
        let spec = RawAttention {
            qkv: context(Some(attention.qkv)),
            cos: context(Some(attention.cos)),
            sin: context(Some(attention.sin)),
            step: self.raw.as_ptr(),
            layer: attention.layer,
            heads: attention.heads,
            scale: attention.scale,
            window: attention.window.unwrap_or(0),
            traditional: attention.traditional.into(),
        };
        // SAFETY: step and arrays are borrowed for the call; the primitive shares the ownership of the step's rows and
        // pool, and copies the handles of the arrays. Shapes are checked in C++; the blocks were, in `KvPool::step`.
        array_from(|message, len| unsafe { mlx_ext_attention(&raw const spec, message, len) })
    }
}

impl Drop for KvPool {
    fn drop(&mut self) {
        // SAFETY: made by `mlx_ext_kv_pool_new`, freed once; primitives hold shares of their own.
        unsafe { mlx_ext_kv_pool_free(self.raw.as_ptr()) }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        // SAFETY: made by `mlx_ext_step_new`, freed once; primitives hold shares of their own.
        unsafe { mlx_ext_step_free(self.raw.as_ptr()) }
    }
}

// SAFETY: a pool owns memory that is tied to no thread; its handle only hands out work to MLX's stream, which orders it.
unsafe impl Send for KvPool {}
// SAFETY: a shared handle is only read: it copies the shared pointer, whose count is atomic.
unsafe impl Sync for KvPool {}

/// Opaque.
#[repr(C)]
pub(super) struct RawPool {
    _opaque: [u8; 0],
}

/// Opaque.
#[repr(C)]
pub(super) struct RawStep {
    _opaque: [u8; 0],
}

/// `MlxExtStepRow` of `attention_operation.cpp`.
#[repr(C)]
pub(super) struct RawRow {
    first_token: c_int,
    new_tokens: c_int,
    position: c_int,
    first_block: c_int,
}

/// `MlxExtAttention` of `attention_operation.cpp`.
#[repr(C)]
pub(super) struct RawAttention {
    qkv: *mut c_void,
    cos: *mut c_void,
    sin: *mut c_void,
    step: *const RawStep,
    layer: c_int,
    heads: c_int,
    scale: f32,
    window: c_int,
    traditional: c_int,
}
