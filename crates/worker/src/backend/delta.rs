//! Products to which something is added before what is behind them.

use mlx_rs::{Array, error::Exception};

use super::{Backend, Linear, Rowwise, cpu, mlx};

impl Backend {
    /// The same as [`linear`](Self::linear), with `delta` added to the product of all matrices, before anything behind it: `[tokens, outputs of all]`.
    pub(crate) fn linear_with(self, job: &Linear<'_>, delta: &Array) -> Result<Array, Exception> {
        let Some(gate) = job.gate else {
            let Some(residual) = job.residual else {
                return self.linear(&Linear { residual: Some(delta), ..*job });
            };
            let both = self.rowwise(&Rowwise { residual: Some(residual), ..Rowwise::of(delta) })?;
            return self.linear(&Linear { residual: Some(&both), ..*job });
        };
        let product = self.linear(&Linear { gate: None, residual: Some(delta), ..*job })?;
        let gated =
            if self.kernels.are_cpu() { cpu::gate_up(&product, gate) } else { mlx::gate_up(&product, gate) }?;
        match job.residual {
            Some(residual) => self.rowwise(&Rowwise { residual: Some(residual), ..Rowwise::of(&gated) }),
            None => Ok(gated),
        }
    }
}
