//! Attention of a whole step over ragged sequences, on keys and values kept in blocks.

use std::{ffi::c_int, ptr::NonNull};

use mlx_rs::{Array, error::Exception};

use super::{
    MESSAGE_LEN, array_from, context, error_of,
    foreign::{
        ABSENT, RawAttention, RawPool, RawRow, RawStep, mlx_ext_attention, mlx_ext_kv_pool_copy,
        mlx_ext_kv_pool_free, mlx_ext_kv_pool_new, mlx_ext_kv_pool_read, mlx_ext_kv_pool_write,
        mlx_ext_step_free, mlx_ext_step_new,
    },
};

/// The type in which keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvDtype {
    /// As they were computed.
    Float32,
    /// Rounded, in half the memory.
    Float16,
}

/// Geometry of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Layers of the model.
    pub layers: i32,
    /// Heads of keys and values.
    pub kv_heads: i32,
    /// Components of a head; a multiple of 8, at most [`KvPool::MAX_HEAD_DIM`].
    pub head_dim: i32,
    /// Type of each component.
    pub dtype: KvDtype,
}

/// Blocks of keys and values of every layer, [`KvPool::BLOCK_TOKENS`] tokens each. Which sequences a block belongs to is
/// for the owner to decide. A block takes memory from the first write on, and keeps it.
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
    /// Of each row where it goes on, and the first position whose keys and values it has.
    held: Vec<(i32, i32)>,
}

/// One sequence's part of a step.
#[derive(Debug, Clone, Copy)]
pub struct StepRow<'a> {
    /// Its new tokens; they follow those of the rows before.
    pub new_tokens: i32,
    /// Tokens that its blocks hold already.
    pub position: i32,
    /// Its blocks in order, at least enough for all of its tokens; those beyond are not used. The blocks that its new
    /// tokens go to must not be in use by another row of the step. Blocks that are only read may be shared. The first ones may
    /// be [`KvPool::NO_BLOCK`] where no layer sees them.
    pub blocks: &'a [i32],
}

/// Attention of one layer.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// float32 `[tokens, (heads + 2 * kv_heads) * head_dim]`: queries, keys and values, contiguous. Queries alone if nothing
    /// is appended.
    pub qkv: &'a Array,
    /// Whether the keys and values are appended to the rows' blocks. Otherwise these have them already, by an attention of the
    /// same layer and step whose result `qkv` depends on.
    pub appends: bool,
    /// float32 `[positions, pairs]`: cosines of the rotation by position.
    pub cos: &'a Array,
    /// Its sines.
    pub sin: &'a Array,
    /// Which layer's part of the blocks.
    pub layer: i32,
    /// Query heads.
    pub heads: i32,
    /// Another factor of the scores, by the query's position: float32 `[positions]`.
    pub query_scale: Option<&'a Array>,
    /// A score of each head that takes its part of the softmax and has no value: float32 `[heads]`.
    pub sinks: Option<&'a Array>,
    /// Factor of the scores.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`; positive.
    pub soft_cap: Option<f32>,
    /// How many of the latest tokens a query sees; `None`: all.
    pub window: Option<i32>,
    /// The window begins at the last position that its length divides: a query sees its own chunk of the sequence.
    pub chunked: bool,
    /// Rotate neighbours instead of halves.
    pub traditional: bool,
}

impl KvPool {
    /// Tokens of a block.
    pub const BLOCK_TOKENS: usize = 32;

    /// Stands for a block that is not there.
    pub const NO_BLOCK: i32 = -1;

    /// Most components of a head. Published models have up to 576; threads keep scratch memory of some hundred times as
    /// many floats.
    pub const MAX_HEAD_DIM: i32 = 4096;

    /// Reserves address space for `blocks` blocks.
    ///
    /// # Errors
    /// The system has no such space, or a dimension is not positive.
    pub fn new(shape: KvShape, blocks: i32) -> Result<Self, Exception> {
        let KvShape { layers, kv_heads, head_dim, dtype } = shape;
        let heads_fit = (8..=Self::MAX_HEAD_DIM).contains(&head_dim) && head_dim % 8 == 0;
        if layers < 1 || kv_heads < 1 || !heads_fit || blocks < 1 {
            return Err(Exception::custom(format!("no room for {blocks} blocks of {shape:?}")));
        }
        if !cfg!(target_os = "linux") {
            return Err(Exception::custom(ABSENT.to_string_lossy()));
        }
        let half = c_int::from(dtype == KvDtype::Float16);
        // SAFETY: plain numbers, checked above.
        let raw = unsafe {
            mlx_ext_kv_pool_new(layers, kv_heads, head_dim, Self::BLOCK_TOKENS as c_int, half, blocks)
        };
        let raw = NonNull::new(raw)
            .ok_or_else(|| Exception::custom(format!("no address space for {blocks} blocks of {shape:?}")))?;
        Ok(Self { raw, shape, blocks })
    }

    /// Bytes that one block takes in all layers together; `u64::MAX` if they are more than that.
    pub fn block_bytes(shape: KvShape) -> u64 {
        let KvShape { layers, kv_heads, head_dim, dtype } = shape;
        let values = [layers, kv_heads, head_dim].map(|n| u64::from(n.unsigned_abs()));
        let value_bytes = match dtype {
            KvDtype::Float32 => 4,
            KvDtype::Float16 => 2,
        };
        // Keys and values.
        values.into_iter().fold(2 * Self::BLOCK_TOKENS as u64 * value_bytes, u64::saturating_mul)
    }

    /// The rows of a step, for [`Step::attend`].
    ///
    /// # Errors
    /// A row has no tokens, too few blocks, or a block that is not in the pool; or a block that a row writes to is also
    /// in use by another row.
    pub fn step(&self, rows: &[StepRow<'_>]) -> Result<Step, Exception> {
        let (mut raw_rows, mut blocks) = (Vec::with_capacity(rows.len()), Vec::new());
        let mut tokens: c_int = 0;
        for row in rows {
            let used = row.used_blocks()?;
            raw_rows.push(RawRow {
                first_token: tokens,
                new_tokens: row.new_tokens,
                position: row.position,
                first_block: blocks.len() as c_int,
            });
            blocks.extend_from_slice(used);
            tokens = tokens
                .checked_add(row.new_tokens)
                .ok_or_else(|| Exception::custom("a step has too many tokens"))?;
        }
        self.check_blocks(rows)?;
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
        let held = rows.iter().map(|row| (row.position, row.first_held())).collect();
        Ok(Step { raw, held })
    }

    /// Every used block must be in the pool, and a block that is written to must be in use once only: tasks of several
    /// threads work on the rows at the same time, in no particular order.
    fn check_blocks(&self, rows: &[StepRow<'_>]) -> Result<(), Exception> {
        let blocks = self.blocks.unsigned_abs() as usize;
        let mut written = vec![false; blocks];
        let index = |block: i32| usize::try_from(block).ok().filter(|&index| index < blocks);
        let outside = || Exception::custom("a step's blocks must be in the pool");
        let shared = || Exception::custom("a block that a step writes to must be in use by one row only");
        for row in rows {
            for &block in row.written_blocks()? {
                let index = index(block).ok_or_else(outside)?;
                if std::mem::replace(&mut written[index], true) {
                    return Err(shared());
                }
            }
        }
        for row in rows {
            for &block in row.read_blocks()? {
                if written[index(block).ok_or_else(outside)?] {
                    return Err(shared());
                }
            }
        }
        Ok(())
    }

    /// Copies a block's keys and values, of all layers, to another block.
    ///
    /// Waits for everything that the calling thread has handed to MLX's CPU stream. Lazy results that have not been
    /// evaluated yet see the copy.
    ///
    /// # Errors
    /// A block is not in the pool, or MLX failed an earlier operation.
    pub fn copy_block(&self, from: i32, to: i32) -> Result<(), Exception> {
        self.check(from)?;
        self.check(to)?;
        let mut message = [0_u8; MESSAGE_LEN];
        // SAFETY: the blocks are in the pool, as checked above; C++ waits for the work that may be using them, which is
        // that of this thread, as one thread owns all MLX work.
        let done = unsafe {
            mlx_ext_kv_pool_copy(self.raw.as_ptr(), from, to, message.as_mut_ptr().cast(), MESSAGE_LEN)
        };
        if done == 0 { Err(error_of(&message)) } else { Ok(()) }
    }

    /// Copies a block's keys and values, of all layers, to `bytes`: [`block_bytes`](Self::block_bytes) of them. What they
    /// mean depends on the geometry, and on nothing else.
    ///
    /// Waits as [`copy_block`](Self::copy_block) does.
    ///
    /// # Errors
    /// The block is not in the pool, `bytes` has another length, or MLX failed an earlier operation.
    pub fn read_block(&self, block: i32, bytes: &mut [u8]) -> Result<(), Exception> {
        self.check(block)?;
        self.check_len(bytes)?;
        let mut message = [0_u8; MESSAGE_LEN];
        // SAFETY: the block is in the pool and `bytes` has room for it, as checked above; the rest as in `copy_block`.
        let done = unsafe {
            let bytes = bytes.as_mut_ptr().cast();
            mlx_ext_kv_pool_read(self.raw.as_ptr(), block, bytes, message.as_mut_ptr().cast(), MESSAGE_LEN)
        };
        if done == 0 { Err(error_of(&message)) } else { Ok(()) }
    }

    /// Gives a block the keys and values that [`read_block`](Self::read_block) has copied from another, of any pool with
    /// the same geometry.
    ///
    /// # Errors
    /// Those of `read_block`.
    pub fn write_block(&self, block: i32, bytes: &[u8]) -> Result<(), Exception> {
        self.check(block)?;
        self.check_len(bytes)?;
        let mut message = [0_u8; MESSAGE_LEN];
        // SAFETY: as in `read_block`. Any bytes are numbers.
        let done = unsafe {
            let bytes = bytes.as_ptr().cast();
            mlx_ext_kv_pool_write(self.raw.as_ptr(), block, bytes, message.as_mut_ptr().cast(), MESSAGE_LEN)
        };
        if done == 0 { Err(error_of(&message)) } else { Ok(()) }
    }

    fn check(&self, block: i32) -> Result<(), Exception> {
        if (0..self.blocks).contains(&block) {
            return Ok(());
        }
        Err(Exception::custom(format!("block {block} is not in a pool of {}", self.blocks)))
    }

    fn check_len(&self, bytes: &[u8]) -> Result<(), Exception> {
        let block = Self::block_bytes(self.shape);
        if bytes.len() as u64 == block {
            return Ok(());
        }
        Err(Exception::custom(format!("{} bytes are not a block of {block}", bytes.len())))
    }

    /// The geometry.
    pub fn shape(&self) -> KvShape {
        self.shape
    }
}

impl<'a> StepRow<'a> {
    /// The blocks of the row's tokens, old and new.
    fn used_blocks(&self) -> Result<&'a [i32], Exception> {
        let end = i64::from(self.position) + i64::from(self.new_tokens);
        let used = usize::try_from(end).unwrap_or(usize::MAX).div_ceil(KvPool::BLOCK_TOKENS);
        if self.position < 0 || self.new_tokens < 1 {
            return Err(Exception::custom(format!("a step row has no new tokens: {self:?}")));
        }
        self.blocks
            .get(..used)
            .ok_or_else(|| Exception::custom(format!("a step row has too few blocks: {self:?}")))
    }

    /// The blocks that its new tokens go to; the first of them may also hold earlier tokens.
    fn written_blocks(&self) -> Result<&'a [i32], Exception> {
        Ok(&self.used_blocks()?[self.full_blocks()..])
    }

    /// The blocks whose tokens are only read.
    fn read_blocks(&self) -> Result<&'a [i32], Exception> {
        let full = &self.used_blocks()?[..self.full_blocks()];
        Ok(&full[self.absent_blocks().min(full.len())..])
    }

    /// How many of its first blocks are not there.
    fn absent_blocks(&self) -> usize {
        self.blocks.iter().take_while(|&&block| block == KvPool::NO_BLOCK).count()
    }

    /// The first position whose block is there.
    fn first_held(&self) -> i32 {
        i32::try_from(self.absent_blocks().saturating_mul(KvPool::BLOCK_TOKENS)).unwrap_or(i32::MAX)
    }

    fn full_blocks(&self) -> usize {
        self.position.unsigned_abs() as usize / KvPool::BLOCK_TOKENS
    }
}

impl Step {
    /// Rotates queries and keys, writes keys and values into the rows' blocks if they are new, and attends causally. Lazy:
    /// float32 `[tokens, heads * head_dim]`.
    ///
    /// Evaluating it changes the pool, of which MLX does not know: evaluate all layers of a step before building the
    /// next one that has the same sequences.
    ///
    /// # Errors
    /// Shapes or types that do not fit, or a row without a block that the layer sees.
    pub fn attend(&self, attention: &Attention<'_>) -> Result<Array, Exception> {
        if self.held.iter().any(|&(position, first)| attention.first_seen(position) < first) {
            return Err(Exception::custom("a layer sees tokens whose keys and values are not there"));
        }
        let spec = RawAttention {
            qkv: context(Some(attention.qkv)),
            cos: context(Some(attention.cos)),
            sin: context(Some(attention.sin)),
            query_scale: context(attention.query_scale),
            sinks: context(attention.sinks),
            step: self.raw.as_ptr(),
            layer: attention.layer,
            heads: attention.heads,
            scale: attention.scale,
            soft_cap: attention.soft_cap.unwrap_or(0.0),
            window: attention.window.unwrap_or(0),
            traditional: attention.traditional.into(),
            chunked: attention.chunked.into(),
            appends: attention.appends.into(),
        };
        // SAFETY: step and arrays are borrowed for the call; the primitive shares the ownership of the step's rows and
        // pool, and copies the handles of the arrays. Shapes are checked in C++; the blocks were, in `KvPool::step`.
        array_from(|message, len| unsafe { mlx_ext_attention(&raw const spec, message, len) })
    }
}

impl Attention<'_> {
    /// The first position that the query at a position sees.
    fn first_seen(&self, position: i32) -> i32 {
        match self.window {
            Some(chunk) if self.chunked && chunk > 0 => position - position % chunk,
            Some(window) if window > 0 => position.saturating_add(1).saturating_sub(window).max(0),
            _ => 0,
        }
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
