//! The memory of a process over the number of requests that it has served.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::{task::JoinSet, time::sleep};

/// Samples of it.
#[derive(Debug)]
pub(crate) struct Growth {
    /// Requests, and bytes.
    samples: Vec<(f64, f64)>,
}

/// Between two samples.
const SAMPLE: Duration = Duration::from_millis(100);

impl Growth {
    /// Samples `bytes` until all `clients` have ended, starting once the warm-up requests are `done`.
    ///
    /// # Errors
    /// The memory can't be measured, or was measured less than twice.
    pub(crate) async fn during(
        mut clients: JoinSet<()>,
        warm_up: u64,
        done: impl Fn() -> u64,
        bytes: impl Fn() -> Result<u64>,
    ) -> Result<Self> {
        let all = async { while clients.join_next().await.is_some() {} };
        tokio::pin!(all);
        let mut samples = Vec::new();
        loop {
            let over = tokio::select! {
                () = &mut all => true,
                () = sleep(SAMPLE) => false,
            };
            let done = done();
            if done >= warm_up {
                samples.push((done as f64, bytes()? as f64));
            }
            if over {
                break;
            }
        }
        ensure!(samples.len() > 1, "all was over before the memory could be sampled twice; raise --count");
        Ok(Self { samples })
    }

    /// How many samples there are.
    pub(crate) fn samples(&self) -> usize {
        self.samples.len()
    }

    /// Bytes in the first sample.
    pub(crate) fn begin(&self) -> u64 {
        self.samples.first().map_or(0, |sample| sample.1 as u64)
    }

    /// Bytes in the last one.
    pub(crate) fn end(&self) -> u64 {
        self.samples.last().map_or(0, |sample| sample.1 as u64)
    }

    /// Bytes for each request: the slope of the straight line with the least squares.
    pub(crate) fn bytes_per_request(&self) -> f64 {
        slope(&self.samples)
    }
}

fn slope(samples: &[(f64, f64)]) -> f64 {
    let count = samples.len() as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| samples.iter().map(value).sum::<f64>() / count;
    let (x, y) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let above: f64 = samples.iter().map(|sample| (sample.0 - x) * (sample.1 - y)).sum();
    let below: f64 = samples.iter().map(|sample| (sample.0 - x).powi(2)).sum();
    if below == 0.0 { 0.0 } else { above / below }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_the_line() {
        let line: Vec<_> = (0..10).map(|x| (f64::from(x), 5.0 + 3.0 * f64::from(x))).collect();
        assert!((slope(&line) - 3.0).abs() < 1e-9);
        assert_eq!(slope(&[(1.0, 2.0), (1.0, 3.0)]), 0.0);
        let level: Vec<_> = (0..10).map(|x| (f64::from(x), 7.0)).collect();
        assert!(slope(&level).abs() < 1e-9);
    }
}
