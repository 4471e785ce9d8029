//! Streams that are open at the same time, each client one after the other.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use crate::{
    ask::{Ask, Sampling},
    client::{Client, Target},
    latency::{Latencies, Summary},
    pace::Pacer,
    process::{self, CpuMeter},
    prompts::Prompts,
    streamed::Refusal,
    usage::Usage,
};

/// How many streams of which kind.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Streams at the same time.
    #[arg(long, default_value_t = 50)]
    pub streams: u32,
    /// Streams of each client: the next begins when one has ended.
    #[arg(long, default_value_t = 1)]
    pub requests: u32,
    /// Tokens of each.
    #[arg(long, default_value_t = 100)]
    pub tokens: u32,
    /// Clients begin one after the other within this time.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "0s")]
    pub over: Duration,
    /// A client that is refused with a `Retry-After` comes back then, and goes on trying for this long.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "0s")]
    pub retry: Duration,
    /// Have the server count tokens. That makes every event a little longer.
    #[arg(long)]
    pub usage: bool,
    /// Have the answers be JSON: a list of words without an end.
    #[arg(long)]
    pub json: bool,
    /// What they ask.
    #[command(flatten)]
    pub prompts: Prompts,
    /// How they are answered.
    #[command(flatten)]
    pub sampling: Sampling,
}

/// What their clients saw.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Streams that were asked for.
    pub streams: u32,
    /// Those that ended as they should.
    pub whole: u32,
    /// The others, by what went wrong: dropped, or refused for good.
    pub faults: BTreeMap<String, u64>,
    /// Refusals with a `Retry-After`, by status and code.
    pub refusals: BTreeMap<String, u64>,
    /// Refusals without, which leave a client at a loss.
    pub refusals_without_hint: u64,
    /// Events with text.
    pub tokens: u64,
    /// Tokens as the server counts them, of the streams that were whole; without `--usage` none.
    pub usage: Usage,
    /// From the first request to the last event.
    pub seconds: f64,
    /// Of streams that were admitted: from the request that was to its first text.
    pub first_token: Summary,
    /// From a client's first request to its first text, with all refusals in between.
    pub first_token_after_all: Summary,
    /// Between two events with text of a stream.
    pub gaps: Summary,
    /// Of the watched process.
    pub cpu_seconds: Option<f64>,
    /// Resident memory of the watched process before, in bytes.
    pub memory_before: Option<u64>,
    /// The most that was seen meanwhile.
    pub memory_peak: Option<u64>,
}

/// What all clients count together.
struct Tally {
    report: Report,
    first_token: Latencies,
    first_token_after_all: Latencies,
    gaps: Latencies,
}

/// Between two looks at the memory.
const SAMPLE: Duration = Duration::from_millis(100);

/// Opens the streams and reads them to their ends.
///
/// # Errors
/// This machine has no timer.
pub async fn run(client: &Client, target: &Target, args: &Args) -> Result<Report> {
    let tally = Arc::new(Mutex::new(Tally::new(args.streams * args.requests)?));
    let pacer = Pacer::new()?;
    let memory_before = process::resident(target.pid);
    let (cpu, begin) = (CpuMeter::start(target.pid), Instant::now());
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..args.streams {
        pacer.until(begin + args.over * number / args.streams).await?;
        let asks: Vec<Ask> = (0..args.requests)
            .map(|request| args.ask(&target.model, request * args.streams + number))
            .collect();
        let (client, tally, retry) = (client.clone(), Arc::clone(&tally), args.retry);
        clients.spawn(async move {
            for ask in &asks {
                one(&client, ask, retry, &tally).await;
            }
        });
    }
    let all = async { while clients.join_next().await.is_some() {} };
    let memory_peak = process::peak_during(target.pid, SAMPLE, all).await;
    let (seconds, cpu_seconds) = (begin.elapsed().as_secs_f64(), cpu.seconds());

    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Report {
        seconds,
        cpu_seconds,
        memory_before,
        memory_peak,
        first_token: tally.first_token.summary(),
        first_token_after_all: tally.first_token_after_all.summary(),
        gaps: tally.gaps.summary(),
        ..tally.report.clone()
    })
}

/// One request of a client, which tries until it is served or gives up.
async fn one(client: &Client, ask: &Ask, retry: Duration, tally: &Mutex<Tally>) {
    let tally = || tally.lock().unwrap_or_else(PoisonError::into_inner);
    let (body, began) = (ask.body(), Instant::now());
    loop {
        let asked = Instant::now();
        let mut last = None;
        let streamed = client
            .stream(body.clone(), |now| {
                let mut tally = tally();
                match last.replace(now) {
                    Some(last) => tally.gaps.record(now - last),
                    None => {
                        tally.first_token.record(now - asked);
                        tally.first_token_after_all.record(now - began);
                    }
                }
            })
            .await;
        let comes_back = streamed.refused.as_ref().and_then(|refusal| tally().report.refuse(refusal));
        match comes_back {
            Some(after) if began.elapsed() < retry => tokio::time::sleep(after).await,
            _ => {
                let mut tally = tally();
                tally.report.tokens += u64::from(streamed.chunks);
                match streamed.fault() {
                    None => {
                        tally.report.whole += 1;
                        tally.report.usage += streamed.usage.unwrap_or_default();
                    }
                    Some(fault) => *tally.report.faults.entry(fault).or_default() += 1,
                }
                return;
            }
        }
    }
}

impl Args {
    /// Short prompts that are all asked at once.
    pub(crate) fn at_once(streams: u32, tokens: u32) -> Self {
        Self {
            streams,
            requests: 1,
            tokens,
            over: Duration::ZERO,
            retry: Duration::ZERO,
            usage: false,
            json: false,
            prompts: Prompts::SHORT,
            sampling: Sampling::GREEDY,
        }
    }

    /// The request at `place`.
    fn ask(&self, model: &str, place: u32) -> Ask {
        let ask = Ask::new(model, self.prompts.messages(place), self.tokens);
        let schema =
            self.json.then(|| json!({"type": "array", "items": {"type": "string"}, "minItems": 4096}));
        Ask { schema, sampling: self.sampling, seed: place.into(), usage: self.usage, ..ask }
    }
}

impl Tally {
    fn new(streams: u32) -> Result<Self> {
        let report = Report {
            streams,
            whole: 0,
            faults: BTreeMap::new(),
            refusals: BTreeMap::new(),
            refusals_without_hint: 0,
            tokens: 0,
            usage: Usage::default(),
            seconds: 0.0,
            first_token: Summary::default(),
            first_token_after_all: Summary::default(),
            gaps: Summary::default(),
            cpu_seconds: None,
            memory_before: None,
            memory_peak: None,
        };
        let new = Latencies::new;
        Ok(Self { report, first_token: new()?, first_token_after_all: new()?, gaps: new()? })
    }
}

impl Report {
    /// Counts a refusal, and returns when the client comes back.
    fn refuse(&mut self, refusal: &Refusal) -> Option<Duration> {
        match refusal.retry_after {
            Some(_) => {
                let kind = format!("{} {}", refusal.status, refusal.code);
                *self.refusals.entry(kind).or_default() += 1;
            }
            None => self.refusals_without_hint += 1,
        }
        refusal.retry_after
    }
}
