//! Many requests of all kinds, a third of which are given up, and what the worker keeps of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use test_support::memory::anonymous;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    ask::{Ask, Sampling},
    client::{Client, Target},
    gateway::{self, Held, Worker, WorkerMemory},
    growth::Growth,
    prompts::Prompts,
};

/// How many requests, and which.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Requests that are measured.
    #[arg(long, default_value_t = 2000)]
    pub count: u32,
    /// Requests before them: what grows to a certain size has reached it then.
    #[arg(long, default_value_t = 2000)]
    pub warm_up: u32,
    /// At the same time.
    #[arg(long, default_value_t = 8)]
    pub concurrency: u32,
    /// Most words of a prompt.
    #[arg(long, default_value_t = 240)]
    pub words: u32,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 32)]
    pub tokens: u32,
    /// A client that gives up does so within this time.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "1s")]
    pub within: Duration,
    /// Of everything that is random.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Requests that were answered to their end.
    pub answered: u32,
    /// Requests that were given up.
    pub cancelled: u32,
    /// Requests that failed.
    pub failed: u32,
    /// Bytes by which the worker's anonymous memory grew with each request: the slope of a straight line through all
    /// samples.
    pub bytes_per_request: f64,
    /// Anonymous memory of the worker after the warm-up.
    pub memory_begin: u64,
    /// At the end.
    pub memory_end: u64,
    /// Samples of it.
    pub samples: usize,
    /// What is still held afterwards: all zero, or something leaks.
    pub held: Held,
    /// What the worker said that it had before the first request.
    pub before: WorkerMemory,
    /// What it said afterwards. What is not kept for later requests has to be as before.
    pub after: WorkerMemory,
}

/// What became of the requests.
#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU32,
    answered: AtomicU32,
    cancelled: AtomicU32,
    failed: AtomicU32,
}

/// Between two looks at what it says.
const LOOK: Duration = Duration::from_millis(100);

/// For the worker to notice that the last clients have left, and to say so.
const SETTLE: Duration = Duration::from_secs(30);

/// Every so many requests begin alike.
const ALIKE: u32 = 4;

/// Sends all requests.
///
/// # Errors
/// There is not exactly one worker, or its memory can't be measured.
pub async fn run(client: &Client, target: &Target, args: &Args) -> Result<Report> {
    let pid = only_worker(client).await?.pid.context("the worker does not serve")?;
    let before = settled(client).await?;
    fill(client, target, args).await?;
    let counts = Arc::new(Counts::default());
    let mut clients = JoinSet::new();
    for number in 0..args.concurrency {
        let random = fastrand::Rng::with_seed(args.seed.wrapping_add(number.into()));
        let (client, model) = (client.clone(), target.model.clone());
        clients.spawn(ask_often(client, model, args.clone(), random, Arc::clone(&counts)));
    }
    let done = || u64::from(counts.done());
    let bytes = || anonymous(pid).context("the worker's memory can be measured on Linux only");
    let growth = Growth::during(clients, args.warm_up.into(), done, bytes).await?;
    let held = gateway::held_after(client, SETTLE).await?;
    let get = |count: &AtomicU32| count.load(Ordering::Relaxed);
    Ok(Report {
        answered: get(&counts.answered),
        cancelled: get(&counts.cancelled),
        failed: get(&counts.failed),
        bytes_per_request: growth.bytes_per_request(),
        memory_begin: growth.begin(),
        memory_end: growth.end(),
        samples: growth.samples(),
        held,
        before,
        after: settled(client).await?,
    })
}

impl Counts {
    fn done(&self) -> u32 {
        [&self.answered, &self.cancelled, &self.failed].iter().map(|it| it.load(Ordering::Relaxed)).sum()
    }
}

async fn only_worker(client: &Client) -> Result<Worker> {
    let mut workers = gateway::workers(client).await?;
    ensure!(workers.len() == 1, "there are {} workers; one is measured", workers.len());
    workers.pop().context("there is no worker")
}

/// What the worker says when it has said anything and nothing but kept prefixes is left, or after a while.
async fn settled(client: &Client) -> Result<WorkerMemory> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let memory = only_worker(client).await?.memory;
        if (memory.kv_limit > 0 && memory.kv == memory.kept_prefixes) || Instant::now() > deadline {
            return Ok(memory);
        }
        sleep(LOOK).await;
    }
}

/// As many of the longest requests at the same time as there will ever be: memory for keys and values is taken when it is
/// first used.
async fn fill(client: &Client, target: &Target, args: &Args) -> Result<()> {
    let mut clients = JoinSet::new();
    for number in 0..args.concurrency {
        let messages = Prompts { words: args.words, ..Prompts::SHORT }.messages(u32::MAX - number);
        let (client, ask) = (client.clone(), Ask::new(&target.model, messages, args.tokens));
        clients.spawn(async move { client.stream(ask.body(), |_| {}).await.is_whole() });
    }
    while let Some(whole) = clients.join_next().await {
        ensure!(whole?, "one of the first requests failed");
    }
    Ok(())
}

/// One client, one request after the other.
async fn ask_often(
    client: Client,
    model: String,
    args: Args,
    mut random: fastrand::Rng,
    counts: Arc<Counts>,
) {
    loop {
        let number = counts.begun.fetch_add(1, Ordering::Relaxed);
        if number >= args.warm_up + args.count {
            return;
        }
        let ask = ask(&model, &args, number, &mut random);
        let answered = async {
            if ask.stream {
                return client.stream(ask.body(), |_| {}).await.is_whole();
            }
            match client.ask(ask.body()).await {
                Ok(response) => response.status == 200 && response.text().await.is_ok(),
                Err(_) => false,
            }
        };
        // Often soon, while it waits or its prompt is computed, and sometimes late.
        let stays = match random.u32(..3) {
            0 => args.within.mul_f64(random.f64().powi(2)),
            _ => Duration::MAX,
        };
        let count = match timeout(stays, answered).await {
            Err(_left) => &counts.cancelled,
            Ok(true) => &counts.answered,
            Ok(false) => &counts.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Of any length, with any kind of sampling, streamed or not.
fn ask(model: &str, args: &Args, number: u32, random: &mut fastrand::Rng) -> Ask {
    let words = random.u32(1..=args.words.max(1));
    let shared = if number.is_multiple_of(ALIKE) { random.u32(..=words) } else { 0 };
    let prompts = Prompts { words: words - shared, shared, ..Prompts::SHORT };
    let sampling = if random.bool() { Sampling::GREEDY } else { Sampling { temperature: 0.8, top_p: 0.95 } };
    let tokens = random.u32(1..=args.tokens.max(1));
    let (seed, stream) = (random.u64(..1 << 32), random.bool());
    Ask { sampling, seed, stream, ..Ask::new(model, prompts.messages(number), tokens) }
}
