//! What sentence-transformers may put behind the pooling: matrices with a bias and an activation.

use artifact_store::{DenseActivation, DenseModule};
use mlx_rs::{Array, error::Exception};

use super::{FusedLinear, ModelError, Weights, load_matrix};
use crate::backend::{Backend, Rowwise};

/// `Dense` modules, one behind the other.
pub(in crate::model) struct DenseModules {
    modules: Vec<Dense>,
    /// Numbers of a vector behind the last one.
    width: u32,
    backend: Backend,
}

struct Dense {
    linear: FusedLinear,
    activation: DenseActivation,
}

impl DenseModules {
    /// Takes `<module>.linear.weight` of each and what belongs to it.
    pub(in crate::model) fn load(
        weights: &mut Weights<'_>,
        modules: &[DenseModule],
    ) -> Result<Self, ModelError> {
        let mut loaded = Vec::with_capacity(modules.len());
        for DenseModule { name, inputs, outputs, bias, activation } in modules {
            let shape = [*outputs as i32, *inputs as i32];
            let matrix = load_matrix(weights, &format!("{name}.linear"), shape, *bias)?;
            let linear = FusedLinear::new(None, vec![matrix], weights);
            loaded.push(Dense { linear, activation: *activation });
        }
        let width = modules.last().map_or(0, |module| module.outputs);
        Ok(Self { modules: loaded, width, backend: weights.backend() })
    }

    /// Numbers of a vector behind them; `None`: there are none, and it stays as it is.
    pub(in crate::model) fn width(&self) -> Option<u32> {
        (!self.modules.is_empty()).then_some(self.width)
    }

    /// `x` and the result: `[vectors, width]`; lazy.
    pub(in crate::model) fn forward(&self, x: &Array) -> Result<Array, Exception> {
        let mut x = x.as_dtype(self.backend.dtype())?;
        for Dense { linear, activation } in &self.modules {
            x = linear.forward(&x, None)?;
            if *activation == DenseActivation::Tanh {
                // A cap of 1 is the hyperbolic tangent.
                x = self.backend.rowwise(&Rowwise { soft_cap: Some(1.0), ..Rowwise::of(&x) })?;
            }
        }
        Ok(x)
    }
}
