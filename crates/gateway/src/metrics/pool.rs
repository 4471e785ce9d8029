//! How often memory that is kept for the next use is used again.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

/// How often memory that is kept for the next use was at hand when it was needed.
#[derive(Clone, Debug)]
pub struct PoolMetrics {
    reused: Counter,
    allocated: Counter,
}

/// Those of all pools.
pub(super) type PoolCounters = Family<PoolLabels, Counter>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct PoolLabels {
    pool: &'static str,
    outcome: &'static str,
}

impl PoolMetrics {
    pub(super) fn new(counters: &PoolCounters, pool: &'static str) -> Self {
        let count = |outcome| counters.get_or_create_owned(&PoolLabels { pool, outcome });
        Self { reused: count("reused"), allocated: count("allocated") }
    }

    /// Memory was needed, and it was at hand or had to be allocated.
    pub fn count(&self, reused: bool) {
        if reused {
            self.reused.inc()
        } else {
            self.allocated.inc()
        };
    }

    /// Times that it was at hand.
    pub fn reused(&self) -> u64 {
        self.reused.get()
    }

    /// Times that it had to be allocated.
    pub fn allocated(&self) -> u64 {
        self.allocated.get()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::metrics::MetricRegistry;

    #[test]
    fn pools_share_a_metric_and_have_a_label_each() {
        let mut registry = MetricRegistry::new();
        let (one, two) = (registry.pool("one"), registry.pool("two"));
        [true, true, false].into_iter().for_each(|reused| one.count(reused));
        two.count(true);
        let text = registry.render().unwrap();
        for (pool, outcome, count) in [("one", "reused", 2), ("one", "allocated", 1), ("two", "reused", 1)] {
            let line = format!("kr_pool_requests_total{{pool=\"{pool}\",outcome=\"{outcome}\"}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
        assert_eq!(registry.catalogue().len(), 1);
    }
}
