//! Adapters: low-rank matrices (LoRA) that some rows of a step add to some of the model's own.
//!
//! ```text
//! sites  the model's products that can be adapted, and what the current step adds to each
//! step   which rows of a step have which adapter
//! load   from an artifact's tensors to matrices that fit the sites
//! error  why an adapter can't be loaded
//! ```
//!
//! The base's product of all rows is computed as always, fused as always, and the rows' own differences are added to it:
//! `x Wᵀ + scale (x A) B`. A step without adapters computes what it did before there were any. Rows of one adapter are
//! computed together; on a CPU a row's bits depend on no other row.

mod error;
mod load;
mod sites;
mod step;

use std::sync::{Mutex, PoisonError};

use artifact_store::{Artifact, Digest};

pub use self::{error::AdapterError, sites::Adaptable};
pub(super) use self::{
    sites::{Site, Sites},
    step::StepAdapters,
};
use crate::backend::Matrix;

/// An adapter that is loaded. It holds the lease of its artifact.
pub struct Adapter {
    artifact: Artifact,
    bytes: u64,
    /// Of each site, if it is adapted. The lock is for MLX's handles alone, which must not be copied by two threads.
    deltas: Mutex<Vec<Option<LowRank>>>,
}

/// What is added to a product.
#[derive(Clone)]
struct LowRank {
    /// `[rank, inputs]`
    down: Matrix,
    /// `[outputs, rank]`, with the adapter's scale.
    up: Matrix,
}

impl Adapter {
    /// That of its artifact.
    pub fn digest(&self) -> Digest {
        self.artifact.digest
    }

    /// Bytes of its matrices, as they are computed with.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn delta(&self, site: usize) -> Option<LowRank> {
        self.deltas.lock().unwrap_or_else(PoisonError::into_inner).get(site)?.clone()
    }
}

impl std::fmt::Debug for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Adapter");
        shown.field("name", &self.artifact.name).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
