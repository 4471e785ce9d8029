//! Operations over the rings, without HTTP: what one costs between the gateway's link and a worker.
//!
//! `cargo xtask bench gateway ipc` runs it beside another way to speak to a process. It starts the worker through the
//! gateway's own launcher and link, and prints one line of JSON.

#![allow(clippy::print_stdout)] // the result is the output

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use gateway::{
    cli::Flags,
    config::Config,
    metrics::MetricRegistry,
    worker::{WorkerEvent, WorkerId, WorkerLauncher, WorkerMetrics, WorkerProcess, link::Link},
};
use protocol::message::{OperationKind, Prompt, TokenizeInput};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet};

/// Sends operations to one worker.
#[derive(Parser)]
struct Cli {
    /// The worker's executable.
    worker: PathBuf,
    /// Operations that are measured.
    #[arg(long, default_value_t = 100_000)]
    operations: u64,
    /// Operations that are under way at the same time.
    #[arg(long, default_value_t = 64)]
    in_flight: u64,
    /// Threads on the gateway's side; 0: as many as the gateway has by default.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Text to tokenize; without it, the tokens of a short text are counted.
    #[arg(long, value_name = "TEXT")]
    tokenize: Option<String>,
    /// The model that the worker loads.
    #[arg(long, default_value = "bench")]
    model: String,
    /// The store that it is in.
    #[arg(long)]
    store: Option<PathBuf>,
    /// What `cargo bench` says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Before what is measured, so that threads run and buffers have their size.
const WARM_UP: u64 = 2000;

/// For a model to load.
const LOAD: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let cli = Cli::parse();
    gateway::runtime::start(cli.threads).context("can't start the runtime")?.block_on(run(&cli))
}

async fn run(cli: &Cli) -> Result<()> {
    let flags = Flags {
        models: vec![cli.model.clone()],
        worker_bin: Some(cli.worker.clone()),
        store: cli.store.clone(),
        ..Flags::default()
    };
    let config = Config::from_text(Path::new("no file"), "", &flags)?;
    let mut registry = MetricRegistry::new();
    let metrics = WorkerMetrics::register(&mut registry);
    let launcher = Arc::new(WorkerLauncher::new(&config, metrics)?);
    let (events, mut received) = mpsc::channel(64);
    let worker = WorkerId { model: cli.model.as_str().into(), number: 0 };
    let process = WorkerProcess::start(&launcher, worker, config.worker_options(), events);
    loop {
        let event = tokio::time::timeout(LOAD, received.recv()).await.context("the worker does not load")?;
        match event.map(|(_, event)| event) {
            Some(WorkerEvent::Loaded(_)) => break,
            Some(WorkerEvent::LoadFailed(failure)) => bail!("the worker can't load: {}", failure.message),
            Some(WorkerEvent::Died { why, .. }) => bail!("the worker died: {why}"),
            Some(_) => {}
            None => bail!("the worker is gone"),
        }
    }
    // The link waits while nobody takes its events.
    tokio::spawn(async move { while received.recv().await.is_some() {} });

    let kind = Arc::new(kind(cli));
    exchange(process.link(), &kind, WARM_UP, cli.in_flight).await?;
    let before = counters(&registry)?;
    let took = exchange(process.link(), &kind, cli.operations, cli.in_flight).await?;
    let after = counters(&registry)?;
    let each = |index: usize| {
        let (before, after) = before[index].zip(after[index])?;
        Some((after - before) / cli.operations as f64)
    };
    let result = json!({
        "operations": cli.operations, "in_flight": cli.in_flight, "seconds": took.as_secs_f64(),
        "frames": each(0), "wakeups": each(1), "bytes": each(2),
    });
    println!("{result}");
    Ok(())
}

fn kind(cli: &Cli) -> OperationKind {
    let input = |text: &str| TokenizeInput {
        prompt: Prompt::Text(text.into()),
        add_special_tokens: true,
        add_generation_prompt: false,
    };
    match &cli.tokenize {
        Some(text) => OperationKind::Tokenize(input(text)),
        None => OperationKind::Count(input("hello")),
    }
}

/// Has `operations` done, `in_flight` of them at a time: each by a task, as each request is one.
async fn exchange(
    link: &Link,
    kind: &Arc<OperationKind>,
    operations: u64,
    in_flight: u64,
) -> Result<Duration> {
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..in_flight {
        let count = operations / in_flight + u64::from(number < operations % in_flight);
        let (link, kind) = (link.clone(), Arc::clone(kind));
        tasks.spawn(async move {
            for _ in 0..count {
                let answer = link.operate(&*kind, false).await;
                answer.map_err(|failure| anyhow!("an operation failed: {}", failure.message))?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    Ok(begin.elapsed())
}

/// Frames, wake-ups and bytes so far, in both directions.
fn counters(registry: &MetricRegistry) -> Result<[Option<f64>; 3]> {
    let text = registry.render()?;
    let sum = |name: &str| {
        let values = text.lines().filter(|line| line.starts_with(name));
        values
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .reduce(|sum, value| sum + value)
    };
    Ok(["kr_ipc_frames_total{", "kr_ipc_wakeups_total{", "kr_ipc_bytes_total{"].map(sum))
}
