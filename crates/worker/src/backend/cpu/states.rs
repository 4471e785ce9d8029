//! States in one pool, and the layers that read and write them.

use mlx_ext::cpu;
use mlx_rs::{Array, error::Exception};

use super::super::{
    Convolution, DeltaHeads, GatedDelta,
    recurrent::{ConvolutionForm, RowStates, StateGeometry},
};

/// The memory of all states.
pub(crate) struct CpuStates {
    pool: cpu::StatePool,
    /// Where in a state each part begins.
    offsets: Vec<usize>,
}

/// The rows of a step.
pub(crate) struct CpuStateStep {
    step: cpu::StateStep,
    offsets: Vec<usize>,
}

impl CpuStates {
    pub(crate) fn new(geometry: &StateGeometry, states: i32) -> Result<Self, Exception> {
        let floats = usize::try_from(geometry.values()).unwrap_or(usize::MAX);
        Ok(Self { pool: cpu::StatePool::new(floats, states)?, offsets: geometry.offsets() })
    }

    pub(crate) fn step(&self, rows: &[RowStates]) -> Result<CpuStateStep, Exception> {
        let rows = rows.iter().map(|row| cpu::StateRow {
            new_tokens: row.new_tokens,
            from: row.from,
            to: row.to,
            snapshots: &row.snapshots,
        });
        let step = self.pool.step(&rows.collect::<Vec<_>>())?;
        Ok(CpuStateStep { step, offsets: self.offsets.clone() })
    }
}

impl CpuStateStep {
    pub(crate) fn convolve(&self, job: &Convolution, x: &Array) -> Result<Array, Exception> {
        let job = cpu::Convolution {
            x,
            weight: &job.weight,
            bias: job.bias.as_ref(),
            gated: job.form == ConvolutionForm::Gated,
            silu: job.form == ConvolutionForm::Silu,
            state_at: self.offset(job.part)?,
        };
        cpu::convolution(&self.step, &job)
    }

    pub(crate) fn gated_delta(
        &self,
        job: &GatedDelta,
        qkv: &Array,
        gates: &Array,
    ) -> Result<Array, Exception> {
        let DeltaHeads { keys, values, key_dim, value_dim } = job.heads;
        let job = cpu::GatedDelta {
            qkv,
            gates,
            log_rates: &job.log_rates,
            biases: &job.biases,
            key_heads: keys,
            value_heads: values,
            key_dim,
            value_dim,
            state_at: self.offset(job.part)?,
        };
        cpu::gated_delta(&self.step, &job)
    }

    fn offset(&self, part: usize) -> Result<usize, Exception> {
        self.offsets.get(part).copied().ok_or_else(|| Exception::custom("a state has fewer parts"))
    }
}
