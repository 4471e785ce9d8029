//! Percentiles of durations.

use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

/// Durations, kept to three digits.
#[derive(Clone, Debug)]
pub struct Latencies {
    /// Of nanoseconds.
    histogram: Histogram<u64>,
}

/// What is said of many durations, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How many there are.
    pub count: u64,
    /// The middle one.
    pub p50: f64,
    /// Nine of ten are at most this long.
    pub p90: f64,
    /// 95 of 100.
    pub p95: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1000.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

/// What is longer counts as this long.
const LONGEST: u64 = 3_600_000_000_000;

impl Latencies {
    /// Without durations.
    ///
    /// # Errors
    /// Never: the bounds are constants.
    pub fn new() -> Result<Self> {
        let histogram = Histogram::new_with_bounds(1, LONGEST, 3).context("a histogram's bounds")?;
        Ok(Self { histogram })
    }

    /// Adds one.
    pub fn record(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(nanos);
    }

    /// Percentiles.
    pub fn summary(&self) -> Summary {
        let at = |quantile| self.histogram.value_at_quantile(quantile) as f64 / 1e3;
        Summary {
            count: self.histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: self.histogram.max() as f64 / 1e3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_microseconds() -> Result<()> {
        let mut latencies = Latencies::new()?;
        assert_eq!(latencies.summary(), Summary::default());
        (1..=1000).for_each(|micros| latencies.record(Duration::from_micros(micros)));
        let summary = latencies.summary();
        assert_eq!(summary.count, 1000);
        for (found, expected) in
            [(summary.p50, 500.0), (summary.p90, 900.0), (summary.p99, 990.0), (summary.max, 1000.0)]
        {
            assert!((found / expected - 1.0_f64).abs() < 0.002, "{found} for {expected}");
        }
        Ok(())
    }
}
