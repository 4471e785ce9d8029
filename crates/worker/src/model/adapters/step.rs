//! Which rows of a step have which adapter.

use std::{cell::RefCell, sync::Arc};

use mlx_rs::{
    Array,
    error::Exception,
    ops::{concatenate, indexing::take_axis},
};

use super::Adapter;
use crate::backend::{Backend, Linear};

/// The adapters of a step's rows, some of which have one.
pub(in crate::model) struct StepAdapters {
    groups: Vec<Group>,
    rows: usize,
    /// By which groups adapt a product, where in their differences each row's is.
    orders: RefCell<Vec<(Vec<bool>, Array)>>,
}

/// The rows of one adapter.
struct Group {
    adapter: Arc<Adapter>,
    rows: Vec<u32>,
    /// The same for MLX; `None`: all rows of the step.
    index: Option<Array>,
}

impl StepAdapters {
    /// Of each row its adapter. `None` if there is none at all.
    pub(in crate::model) fn new<'a>(
        adapters: impl Iterator<Item = Option<&'a Arc<Adapter>>>,
    ) -> Option<Self> {
        let (mut groups, mut count): (Vec<Group>, usize) = (Vec::new(), 0);
        for (row, adapter) in adapters.enumerate() {
            count += 1;
            let Some(adapter) = adapter else { continue };
            match groups.iter_mut().find(|group| group.adapter.digest() == adapter.digest()) {
                Some(group) => group.rows.push(row as u32),
                None => {
                    groups.push(Group { adapter: Arc::clone(adapter), rows: vec![row as u32], index: None })
                }
            }
        }
        for group in groups.iter_mut().filter(|group| group.rows.len() < count) {
            group.index = Some(Array::from_slice(&group.rows, &[group.rows.len() as i32]));
        }
        (!groups.is_empty()).then_some(Self { groups, rows: count, orders: RefCell::default() })
    }

    /// What is added to a product, in the type of its result; `nothing` is the row of those that have no adapter, or one
    /// that leaves the product as it is.
    pub(super) fn delta(
        &self,
        site: usize,
        product: &Linear<'_>,
        backend: Backend,
        nothing: impl Fn() -> Array,
    ) -> Result<Option<Array>, Exception> {
        let mut parts = Vec::with_capacity(self.groups.len() + 1);
        let mut adapts = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            let delta = group.adapter.delta(site);
            adapts.push(delta.is_some());
            let Some(delta) = delta else { continue };
            let rows = group.index.as_ref().map(|index| take_axis(product.x, index, 0)).transpose()?;
            let x = rows.as_ref().unwrap_or(product.x);
            let down = Linear { x, matrices: &[delta.down], gate: None, residual: None, ..*product };
            let x = &backend.linear(&down)?;
            parts.push(backend.linear(&Linear {
                x,
                norm: None,
                matrices: &[delta.up],
                gate: None,
                residual: None,
            })?);
        }
        let dtype = match &parts[..] {
            [] => return Ok(None),
            [one] if self.groups[0].index.is_none() => return Ok(Some(one.clone())),
            [one, ..] => one.dtype(),
        };
        parts.insert(0, nothing().as_dtype(dtype)?);
        take_axis(concatenate(&parts, 0)?, self.order(adapts), 0).map(Some)
    }

    /// uint32 `[rows]`: 0 for nothing, then the rows of the groups that adapt a product, in order.
    fn order(&self, adapts: Vec<bool>) -> Array {
        let mut orders = self.orders.borrow_mut();
        if let Some((_, order)) = orders.iter().find(|(known, _)| *known == adapts) {
            return order.clone();
        }
        let mut places = vec![0_u32; self.rows];
        let adapting = self.groups.iter().zip(&adapts).filter(|(_, adapts)| **adapts);
        for (&row, place) in adapting.flat_map(|(group, _)| &group.rows).zip(1..) {
            places[row as usize] = place;
        }
        let order = Array::from_slice(&places, &[self.rows as i32]);
        orders.push((adapts, order.clone()));
        order
    }
}
