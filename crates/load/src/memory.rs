//! Many requests, one after the other, and what the gateway keeps of them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::{
    ask::Ask,
    client::{Client, Target},
    growth::Growth,
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
    let done = || counts.ok.load(Ordering::Relaxed) + counts.failed.load(Ordering::Relaxed);
    let growth = Growth::during(clients, args.warm_up, done, resident).await?;
    Ok(Report {
        ok: counts.ok.load(Ordering::Relaxed),
        failed: counts.failed.load(Ordering::Relaxed),
        bytes_per_request: growth.bytes_per_request(),
        memory_begin: growth.begin(),
        memory_end: growth.end(),
        samples: growth.samples(),
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
