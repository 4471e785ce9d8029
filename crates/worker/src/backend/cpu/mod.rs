//! Primitives of this project for the CPU, in float32. Nothing else names them.

mod experts;
mod paged;
mod states;

use mlx_ext::cpu;
use mlx_rs::{Array, error::Exception, transforms::eval};

pub(crate) use experts::CpuExperts;
pub(super) use experts::mix;
pub(crate) use paged::{PagedKv, PagedSequence, PagedStep};
pub(crate) use states::{CpuStateStep, CpuStates};

use super::{
    Activation, AttentionSpec, Columns, Gate, Gated, HeadProducts, Linear, Matrix, Norm, NormKind, Rowwise,
    Storage, window_table::NO_BLOCK,
};
use crate::cache::BLOCK_TOKENS;

const _: () = assert!(BLOCK_TOKENS == cpu::KvPool::BLOCK_TOKENS, "the blocks of the pool are others");
const _: () =
    assert!(NO_BLOCK == cpu::KvPool::NO_BLOCK, "the pool knows what is not there by another number");

/// All of it is one primitive. `int8`: activations are rounded to 8 bits where they meet weights of 4.
pub(super) fn linear(job: &Linear<'_>, int8: bool) -> Result<Array, Exception> {
    let matrices: Vec<cpu::Matrix<'_>> = job.matrices.iter().map(borrowed).collect();
    cpu::linear(&cpu::Linear {
        x: job.x,
        norm: job.norm.map(|norm| (&norm.weight, norm.eps)),
        matrices: &matrices,
        gate: job.gate.map(gate),
        residual: job.residual,
        int8,
    })
}

/// Of rows `[gate, up]`.
pub(super) fn gate_up(product: &Array, activation: Gate) -> Result<Array, Exception> {
    cpu::gate_up(product, gate(activation))
}

pub(super) fn rowwise(job: &Rowwise<'_>) -> Result<Array, Exception> {
    let parts: Vec<cpu::NormedPart<'_>> = job.norms.iter().map(|&(norm, count)| part(norm, count)).collect();
    cpu::rowwise(&cpu::Rowwise {
        x: job.x,
        parts: &parts,
        gelu: job.gelu,
        factor: job.factor,
        soft_cap: job.soft_cap,
        residual: job.residual,
    })
}

/// Each head with its own part of a matrix.
pub(super) fn head_products(job: &HeadProducts<'_>, int8: bool) -> Result<Array, Exception> {
    cpu::head_products(&cpu::HeadProducts {
        x: job.x,
        heads: job.heads,
        copied: job.copied.clone(),
        inputs: job.inputs.clone(),
        matrix: borrowed(job.matrix),
        rows: job.rows.clone(),
        int8,
    })
}

pub(super) fn gated(job: &Gated<'_>) -> Result<Array, Exception> {
    let activation = match job.activation {
        Activation::Silu => cpu::Activation::Silu,
        Activation::Sigmoid => cpu::Activation::Sigmoid,
        Activation::GeluTanh => cpu::Activation::GeluTanh,
    };
    cpu::gated(&cpu::Gated { x: job.x, gate: job.gate, activation, residual: job.residual })
}

pub(super) fn columns(x: &Array, columns: &Columns) -> Result<Array, Exception> {
    cpu::columns(x, &columns.pieces)
}

pub(super) fn embedding(matrix: &Matrix, tokens: &Array, width: i32) -> Result<Array, Exception> {
    cpu::embedding(&borrowed(matrix), tokens, width)
}

/// Evaluates what a step comes to.
pub(super) fn evaluate(results: &[&Array]) -> Result<(), Exception> {
    // Of two results that have something in common, that would be computed twice.
    match results {
        [result] => cpu::evaluate(result),
        results => eval(results.iter().copied()),
    }
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
    (spec.heads.dim > cpu::KvPool::MAX_HEAD_DIM).then_some("attention heads of this size")
}

fn gate(gate: Gate) -> cpu::Gate {
    match gate {
        Gate::Silu => cpu::Gate::Silu,
        Gate::GeluTanh => cpu::Gate::GeluTanh,
        Gate::SwigluOai => cpu::Gate::SwigluOai,
    }
}

fn part(norm: &Norm, count: i32) -> cpu::NormedPart<'_> {
    let kind = match norm.kind {
        NormKind::Rms | NormKind::RmsPlusOne => cpu::NormKind::Rms,
        NormKind::Layer => cpu::NormKind::Layer,
    };
    cpu::NormedPart { kind, weight: &norm.weight, bias: norm.bias.as_ref(), eps: norm.eps, count }
}

fn borrowed(matrix: &Matrix) -> cpu::Matrix<'_> {
    cpu::Matrix { bias: matrix.bias.as_ref(), ..stored(&matrix.storage) }
}

/// Without a bias.
fn stored(storage: &Storage) -> cpu::Matrix<'_> {
    let (weight, quantization) = match storage {
        Storage::Dense(weight) => (weight, None),
        Storage::Affine { packed, scales, biases, group_size, bits } => {
            let packing = cpu::Quantization::Affine { scales, biases, group_size: *group_size, bits: *bits };
            (packed, Some(packing))
        }
        // Of these only mxfp4 is readable.
        Storage::MicroScaled { packed, scales, .. } => (packed, Some(cpu::Quantization::Mxfp4 { scales })),
    };
    cpu::Matrix { weight, quantization, bias: None }
}
