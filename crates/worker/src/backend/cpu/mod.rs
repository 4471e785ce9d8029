//! Primitives of this project for the CPU, in float32. Nothing else names them.

mod paged;

use mlx_ext::{MicroScaling, cpu};
use mlx_rs::{Array, Dtype, error::Exception};

pub(crate) use paged::{PagedKv, PagedSequence, PagedStep};

use super::{AttentionSpec, Linear, Matrix, Storage};
use crate::cache::BLOCK_TOKENS;

const _: () = assert!(BLOCK_TOKENS == cpu::KvPool::BLOCK_TOKENS, "the blocks of the pool are others");

/// All of it is one primitive. `int8`: activations are rounded to 8 bits where they meet weights of 4.
pub(super) fn linear(job: &Linear<'_>, int8: bool) -> Result<Array, Exception> {
    let matrices: Vec<cpu::Matrix<'_>> = job.matrices.iter().map(borrowed).collect();
    cpu::linear(&cpu::Linear {
        x: job.x,
        norm: job.norm.map(|norm| (&norm.weight, norm.eps)),
        matrices: &matrices,
        gated: job.gated,
        residual: job.residual,
        int8,
    })
}

pub(super) fn embedding(matrix: &Matrix, tokens: &Array, width: i32) -> Result<Array, Exception> {
    cpu::embedding(&borrowed(matrix), tokens, width)
}

/// Threads of the primitives, the calling one included.
pub(super) fn threads() -> usize {
    cpu::threads().max(1)
}

/// Changes whenever a primitive gets on.
pub(super) fn progress() -> u64 {
    cpu::progress()
}

/// The instructions that the primitives use. Their results are the same with all of them.
pub(super) fn instructions() -> &'static str {
    cpu::instructions()
}

/// What of a layer's attention the primitive can't compute.
pub(super) fn unsupported(spec: &AttentionSpec) -> Option<&'static str> {
    if spec.heads.dim > cpu::KvPool::MAX_HEAD_DIM {
        return Some("attention heads of this size");
    }
    spec.beyond_all_kernels()
}

/// What the primitives can compute with. Small floats of which they can't read the packing become bfloat16, which holds
/// their products with their scales exactly; that reads them, and takes two to four times their memory.
pub(super) fn taken(storage: Storage) -> Result<Storage, Exception> {
    match storage {
        Storage::MicroScaled {
            packed,
            scales,
            format: format @ (MicroScaling::Mxfp8 | MicroScaling::Nvfp4),
        } => {
            let values = format.dequantize(&packed, &scales, Dtype::Bfloat16)?;
            values.eval()?;
            Ok(Storage::Dense(values))
        }
        others => Ok(others),
    }
}

fn borrowed(matrix: &Matrix) -> cpu::Matrix<'_> {
    let (weight, quantization) = match &matrix.storage {
        Storage::Dense(weight) => (weight, None),
        Storage::Affine { packed, scales, biases, group_size, bits } => {
            let packing = cpu::Quantization::Affine { scales, biases, group_size: *group_size, bits: *bits };
            (packed, Some(packing))
        }
        // Of these only mxfp4 is left as it is: the others are expanded when they are taken.
        Storage::MicroScaled { packed, scales, .. } => (packed, Some(cpu::Quantization::Mxfp4 { scales })),
    };
    cpu::Matrix { weight, quantization, bias: matrix.bias.as_ref() }
}
