//! The model's products that can be adapted.

use std::{
    cell::{OnceCell, RefCell},
    rc::Rc,
    sync::Arc,
};

use mlx_rs::{Array, error::Exception};

use super::step::StepAdapters;
use crate::backend::{Backend, Linear, Matrix, Origin};

/// Those of a model. Copies are the same.
///
/// Layers do not pass on which adapters a step has: all sites of a model look here.
#[derive(Clone, Default)]
pub(in crate::model) struct Sites(Rc<Shared>);

#[derive(Default)]
struct Shared {
    shapes: RefCell<Vec<SiteShape>>,
    step: RefCell<Option<StepAdapters>>,
}

/// A product.
pub(in crate::model) struct Site {
    index: usize,
    sites: Sites,
    /// What is added to a row without an adapter: `[1, outputs]`.
    nothing: OnceCell<Array>,
}

/// The sites of a model, for whoever loads adapters of it, on any thread.
#[derive(Debug)]
pub struct Adaptable {
    pub(super) backend: Backend,
    pub(super) sites: Vec<SiteShape>,
    /// May stand before the names of modules.
    pub(super) prefix: &'static str,
}

/// What an adapter's matrices have to fit.
#[derive(Debug, Clone)]
pub(super) struct SiteShape {
    pub(super) inputs: usize,
    /// Their outputs stand one behind the other.
    pub(super) parts: Vec<SitePart>,
}

/// Some outputs of one of the model's modules.
#[derive(Debug, Clone)]
pub(super) struct SitePart {
    pub(super) module: Arc<str>,
    /// Which output is the first.
    pub(super) first: usize,
    pub(super) outputs: usize,
}

/// Ends a step.
pub(in crate::model) struct Stepping<'a>(&'a Sites);

impl Sites {
    /// That of a product with these matrices, whose outputs are concatenated. `None`: it can't be adapted.
    pub(in crate::model) fn add(&self, matrices: &[Matrix]) -> Option<Site> {
        let part = |matrix: &Matrix| {
            let Origin { module, first, .. } = matrix.origin()?;
            let (module, first) = (Arc::clone(module), first.unsigned_abs() as usize);
            Some(SitePart { module, first, outputs: matrix.outputs() })
        };
        let parts = matrices.iter().map(part).collect::<Option<Vec<_>>>()?;
        let inputs = matrices.first()?.origin()?.inputs.unsigned_abs() as usize;
        let mut shapes = self.0.shapes.borrow_mut();
        shapes.push(SiteShape { inputs, parts });
        Some(Site { index: shapes.len() - 1, sites: self.clone(), nothing: OnceCell::new() })
    }

    /// All of them. The model is complete.
    pub(in crate::model) fn adaptable(&self, backend: Backend, prefix: &'static str) -> Adaptable {
        Adaptable { backend, sites: self.0.shapes.borrow().clone(), prefix }
    }

    /// What is computed until the returned value is dropped is for rows with these adapters.
    pub(in crate::model) fn begin(&self, step: Option<StepAdapters>) -> Stepping<'_> {
        self.0.step.replace(step);
        Stepping(self)
    }
}

impl Drop for Stepping<'_> {
    fn drop(&mut self) {
        self.0.0.step.replace(None);
    }
}

impl Site {
    /// What the rows' adapters add to a product here, `[rows, outputs]`, before anything that follows it. `None`: nothing.
    pub(in crate::model) fn delta(
        &self,
        product: &Linear<'_>,
        backend: Backend,
    ) -> Result<Option<Array>, Exception> {
        let step = self.sites.0.step.borrow();
        let Some(step) = &*step else { return Ok(None) };
        let outputs = || {
            let shapes = self.sites.0.shapes.borrow();
            shapes[self.index].parts.iter().map(|part| part.outputs).sum()
        };
        step.delta(self.index, product, backend, || self.nothing.get_or_init(|| nothing(outputs())).clone())
    }
}

/// A row that changes no bit of what it is added to: -0 + x is x, also if x is -0.
fn nothing(outputs: usize) -> Array {
    Array::from_slice(&vec![-0.0_f32; outputs], &[1, outputs as i32])
}
