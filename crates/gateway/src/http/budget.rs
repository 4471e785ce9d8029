//! Memory that bodies and waiting requests may take together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::error::ApiError;

/// A number of bytes. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    limit: AtomicUsize,
    used: AtomicUsize,
}

/// Bytes taken from a [`Budget`]; given back on drop.
#[derive(Debug)]
pub(super) struct Charge {
    inner: Arc<Inner>,
    bytes: usize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self { inner: Arc::new(Inner { limit: AtomicUsize::new(limit), used: AtomicUsize::new(0) }) }
    }

    /// Another limit from now on. What is taken already stays so.
    pub(super) fn set_limit(&self, limit: usize) {
        self.inner.limit.store(limit, Ordering::Release);
    }

    /// Nothing yet.
    pub(super) fn charge(&self) -> Charge {
        Charge { inner: Arc::clone(&self.inner), bytes: 0 }
    }
}

impl Charge {
    /// Makes it `bytes`. Less always works; more only if they are there.
    pub(super) fn resize(&mut self, bytes: usize) -> Result<(), ApiError> {
        let used = &self.inner.used;
        if bytes <= self.bytes {
            used.fetch_sub(self.bytes - bytes, Ordering::AcqRel);
        } else {
            let more = bytes - self.bytes;
            let limit = self.inner.limit.load(Ordering::Acquire);
            let take = |used: usize| used.checked_add(more).filter(|used| *used <= limit);
            used.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).map_err(|_| ApiError::Memory)?;
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.inner.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_used_is_the_sum_of_charges_and_within_the_limit(
            steps in prop::collection::vec((0..4usize, prop::option::of(0..150usize)), 0..100),
        ) {
            let budget = Budget::new(200);
            let mut charges: Vec<_> = (0..4).map(|_| budget.charge()).collect();
            for (index, resize) in steps {
                match resize {
                    Some(bytes) => {
                        let others: usize = charges.iter().map(|c| c.bytes).sum::<usize>() - charges[index].bytes;
                        let fits = bytes <= charges[index].bytes || others + bytes <= 200;
                        prop_assert_eq!(charges[index].resize(bytes).is_ok(), fits);
                    }
                    None => charges[index] = budget.charge(),
                }
                let sum: usize = charges.iter().map(|charge| charge.bytes).sum();
                prop_assert_eq!(budget.inner.used.load(Ordering::Acquire), sum);
                prop_assert!(sum <= 200);
            }
        }
    }
}
