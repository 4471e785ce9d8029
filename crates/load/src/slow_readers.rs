//! Some of the streams stop reading for a while: what the others lose, what the gateway keeps meanwhile, and whether the
//! slow ones then get their whole text.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use serde::Serialize;
use tokio::{sync::watch, task::JoinSet, time::sleep};

use crate::{
    ask::Ask,
    client::{Client, Target},
    process,
    streamed::Streamed,
};

/// How many streams, and how many of them are slow.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Streams in all.
    #[arg(long, default_value_t = 50)]
    pub streams: u32,
    /// Those that stop reading.
    #[arg(long, default_value_t = 10)]
    pub slow: u32,
    /// For how long they stop. The others are measured for as long before.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "20s")]
    pub pause: Duration,
    /// Tokens of each stream: more than the time before and the pause bring.
    #[arg(long, default_value_t = 1000)]
    pub tokens: u32,
    /// Nobody stops: what the time alone costs, as contexts grow.
    #[arg(long)]
    pub control: bool,
}

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Tokens a second of those that always read, together, while all read.
    pub rate_before: f64,
    /// The same while the slow ones did not.
    pub rate_during: f64,
    /// Tokens that the slow ones were sent in the meantime and had not read.
    pub behind: u64,
    /// Resident memory of the watched process before the pause, in bytes.
    pub memory_before: Option<u64>,
    /// The most during the pause.
    pub memory_peak: Option<u64>,
    /// Slow ones that got the whole text in the end.
    pub slow_whole: u32,
    /// Others that did.
    pub others_whole: u32,
    /// Different texts; all ask the same.
    pub texts: usize,
    /// What went wrong, each once.
    pub faults: BTreeSet<String>,
}

/// Bytes that the system takes for a slow client.
const RECEIVE_BUFFER: u32 = 4096;

/// For all streams to begin.
const BEGIN: Duration = Duration::from_secs(120);

/// Between two looks.
const POLL: Duration = Duration::from_millis(100);

/// Opens the streams, has some of them stop and go on, and reads all to their ends.
///
/// # Errors
/// The streams don't begin, or end before the pause does.
pub async fn run(client: &Client, target: &Target, args: &Args) -> Result<Report> {
    let ask = Ask::question(&target.model, "Count from one to a thousand in words.", args.tokens);
    let body = ask.body();
    let slow_client = Client::with_receive_buffer(target.address, RECEIVE_BUFFER);
    let read: Arc<Vec<AtomicU64>> = Arc::new((0..args.streams).map(|_| AtomicU64::default()).collect());
    let (pause, paused) = watch::channel(false);
    let mut readers = JoinSet::new();
    for number in 0..args.streams {
        let is_slow = number < args.slow;
        let client = if is_slow { &slow_client } else { client };
        let paused = is_slow.then(|| paused.clone());
        readers.spawn(reader(client.clone(), body.clone(), number, Arc::clone(&read), paused));
    }
    wait_for_all(&read).await?;

    let counts = |slow: bool| {
        let range = if slow { 0..args.slow } else { args.slow..args.streams };
        range.map(|number| read[number as usize].load(Ordering::Relaxed)).sum::<u64>()
    };
    let window = async || {
        let (begin, before) = (Instant::now(), counts(false));
        sleep(args.pause).await;
        (counts(false) - before) as f64 / begin.elapsed().as_secs_f64()
    };
    let rate_before = window().await;
    let memory_before = process::resident(target.pid);
    pause.send_replace(!args.control);
    let mut rate_during = 0.0;
    let memory_peak = process::peak_during(target.pid, POLL, async { rate_during = window().await }).await;
    let most = read.iter().map(|count| count.load(Ordering::Relaxed)).max().unwrap_or_default();
    ensure!(most < u64::from(args.tokens), "streams ended before the pause did; give them more --tokens");
    let even = counts(false) / u64::from((args.streams - args.slow).max(1)) * u64::from(args.slow);
    let behind = even.saturating_sub(counts(true));
    pause.send_replace(false);

    let mut report = Report {
        rate_before,
        rate_during,
        behind,
        memory_before,
        memory_peak,
        slow_whole: 0,
        others_whole: 0,
        texts: 0,
        faults: BTreeSet::new(),
    };
    let mut texts = BTreeSet::new();
    while let Some(read) = readers.join_next().await {
        let (number, streamed) = read?;
        report.faults.extend(streamed.fault());
        let whole = u32::from(streamed.is_whole());
        if number < args.slow {
            report.slow_whole += whole
        } else {
            report.others_whole += whole
        }
        texts.insert(streamed.text);
    }
    report.texts = texts.len();
    Ok(report)
}

/// Reads a stream, but not while `paused` says so.
async fn reader(
    client: Client,
    body: Bytes,
    number: u32,
    read: Arc<Vec<AtomicU64>>,
    paused: Option<watch::Receiver<bool>>,
) -> (u32, Streamed) {
    let count = |_| {
        read[number as usize].fetch_add(1, Ordering::Relaxed);
    };
    let streamed = client.stream_unless(body, count, paused).await;
    (number, streamed)
}

async fn wait_for_all(read: &[AtomicU64]) -> Result<()> {
    let deadline = Instant::now() + BEGIN;
    loop {
        let waiting = read.iter().filter(|count| count.load(Ordering::Relaxed) == 0).count();
        if waiting == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{waiting} streams did not begin within {BEGIN:?}");
        sleep(POLL).await;
    }
}
