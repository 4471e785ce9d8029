//! Many requests, one after the other, and what the gateway keeps of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    ask::Ask,
    client::{Client, Target},
    open_loop, process,
};

/// How many requests.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Requests that are measured; every other one is streamed.
    #[arg(long, default_value_t = 100_000)]
    pub count: u64,
    /// Requests before them: buffers and pools reach their size.
    #[arg(long, default_value_t = 20_000)]
    pub warm_up: u64,
    /// At the same time.
    #[arg(long, default_value_t = 16)]
    pub concurrency: u32,
    /// Tokens of each answer.
    #[arg(long, default_value_t = 8)]
    pub tokens: u32,
}

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Requests that were answered.
    pub ok: u64,
    /// Requests that were not.
    pub failed: u64,
    /// Bytes by which the resident memory grew with each request: the slope of a straight line through all samples.
    pub bytes_per_request: f64,
    /// Resident memory after the warm-up.
    pub memory_begin: u64,
    /// At the end.
    pub memory_end: u64,
    /// Samples of the memory.
    pub samples: usize,
}

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU64,
    ok: AtomicU64,
    failed: AtomicU64,
}

/// Between two samples.
const SAMPLE: Duration = Duration::from_millis(100);

/// Sends all requests.
///
/// # Errors
/// The memory of the process can't be measured.
pub async fn run(client: &Client, target: &Target, args: &Args) -> Result<Report> {
    let resident = || {
        process::resident(target.pid)
            .context("give the gateway's --pid; its memory can be measured on Linux only")
    };
    let counts = Arc::new(Counts::default());
    let total = args.warm_up + args.count;
    let mut clients = JoinSet::new();
    for _ in 0..args.concurrency {
        clients.spawn(ask_often(
            client.clone(),
            target.model.clone(),
            args.tokens,
            total,
            Arc::clone(&counts),
        ));
    }
    let all = async { while clients.join_next().await.is_some() {} };
    tokio::pin!(all);
    let mut samples = Vec::new();
    loop {
        let over = tokio::select! {
            () = &mut all => true,
            () = sleep(SAMPLE) => false,
        };
        let done = counts.ok.load(Ordering::Relaxed) + counts.failed.load(Ordering::Relaxed);
        if done >= args.warm_up {
            samples.push((done as f64, resident()? as f64));
        }
        if over {
            break;
        }
    }
    ensure!(samples.len() > 1, "all was over before the memory could be sampled twice; raise --count");
    Ok(Report {
        ok: counts.ok.load(Ordering::Relaxed),
        failed: counts.failed.load(Ordering::Relaxed),
        bytes_per_request: slope(&samples),
        memory_begin: samples.first().map_or(0, |sample| sample.1 as u64),
        memory_end: samples.last().map_or(0, |sample| sample.1 as u64),
        samples: samples.len(),
    })
}

async fn ask_often(client: Client, model: String, tokens: u32, total: u64, counts: Arc<Counts>) {
    loop {
        let number = counts.begun.fetch_add(1, Ordering::Relaxed);
        if number >= total {
            return;
        }
        // No two are equal, so that whatever remembers requests remembers all of them.
        let prompt = format!("Tell me something about the number {number}.");
        let stream = number.is_multiple_of(2);
        let ask = Ask { stream, ..Ask::question(&model, prompt, tokens) };
        let ok = if stream {
            client.stream(ask.body(), |_| {}).await.is_whole()
        } else {
            open_loop::request(&client, ask.body()).await.is_none()
        };
        let count = if ok { &counts.ok } else { &counts.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Of the straight line with the least squares.
pub(crate) fn slope(samples: &[(f64, f64)]) -> f64 {
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
