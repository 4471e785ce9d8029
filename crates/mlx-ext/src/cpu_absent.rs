//! Where the CPU primitives are not built (everywhere but on Linux, whose only backend is the CPU): the same names, and
//! an error for whoever calls them nevertheless.

use mlx_rs::{Array, error::Exception};

/// Of the kernels, which are not there.
pub fn instructions() -> &'static str {
    "none"
}

/// Of the kernels, which are not there.
pub fn threads() -> usize {
    0
}

/// See the Linux build.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// As stored.
    pub weight: &'a Array,
    /// How it is packed, if it is.
    pub quantization: Option<Quantization<'a>>,
    /// Added to each product.
    pub bias: Option<&'a Array>,
}

/// See the Linux build.
#[derive(Debug, Clone, Copy)]
pub struct Quantization<'a> {
    /// One a group.
    pub scales: &'a Array,
    /// One a group.
    pub biases: &'a Array,
    /// Inputs of a group.
    pub group_size: i32,
    /// Bits of a value.
    pub bits: i32,
}

/// See the Linux build.
#[derive(Debug, Clone, Copy)]
pub struct Linear<'a> {
    /// Input.
    pub x: &'a Array,
    /// Weight and epsilon.
    pub norm: Option<(&'a Array, f32)>,
    /// Matrices.
    pub matrices: &'a [Matrix<'a>],
    /// Gate and up.
    pub gated: bool,
    /// Added to the result.
    pub residual: Option<&'a Array>,
    /// Rounding of activations.
    pub int8: bool,
}

/// See the Linux build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Layers.
    pub layers: i32,
    /// Heads.
    pub kv_heads: i32,
    /// Components.
    pub head_dim: i32,
    /// Storage.
    pub half: bool,
}

/// Can't be made here.
#[derive(Debug)]
pub enum KvPool {}

/// Can't be made here.
#[derive(Debug)]
pub enum Step {}

/// See the Linux build.
#[derive(Debug, Clone, Copy)]
pub struct StepRow<'a> {
    /// New tokens.
    pub new_tokens: i32,
    /// Held tokens.
    pub position: i32,
    /// Blocks.
    pub blocks: &'a [i32],
}

/// See the Linux build.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Input.
    pub qkv: &'a Array,
    /// Cosines.
    pub cos: &'a Array,
    /// Sines.
    pub sin: &'a Array,
    /// Layer.
    pub layer: i32,
    /// Heads.
    pub heads: i32,
    /// Scale.
    pub scale: f32,
    /// Window.
    pub window: Option<i32>,
    /// Rotation.
    pub traditional: bool,
}

/// # Errors
/// Always.
pub fn linear(_: &Linear<'_>) -> Result<Array, Exception> {
    Err(absent())
}

/// # Errors
/// Always.
pub fn embedding(_: &Matrix<'_>, _: &Array, _: i32) -> Result<Array, Exception> {
    Err(absent())
}

impl KvPool {
    /// Tokens of a block.
    pub const BLOCK_TOKENS: usize = 32;

    /// # Errors
    /// Always.
    pub fn new(_: KvShape, _: i32) -> Result<Self, Exception> {
        Err(absent())
    }

    /// Bytes of a block.
    pub fn block_bytes(shape: KvShape) -> u64 {
        let values = [shape.layers, shape.kv_heads, shape.head_dim].map(|n| u64::from(n.unsigned_abs()));
        values.iter().product::<u64>() * 2 * Self::BLOCK_TOKENS as u64 * if shape.half { 2 } else { 4 }
    }

    /// Nothing calls it.
    pub fn blocks(&self) -> i32 {
        match *self {}
    }

    /// Nothing calls it.
    pub fn step(&self, _: &[StepRow<'_>]) -> Result<Step, Exception> {
        match *self {}
    }
}

impl Step {
    /// Nothing calls it.
    pub fn attend(&self, _: &Attention<'_>) -> Result<Array, Exception> {
        match *self {}
    }
}

fn absent() -> Exception {
    Exception::custom("the CPU primitives are built on Linux only; use the GPU")
}
