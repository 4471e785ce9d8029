//! Streams while workers are killed and frozen.
//!
//! First all requests are answered undisturbed, which gives the expected texts. Then clients ask them again and again,
//! while another task kills workers, and each stream is compared with its expected text.

mod attack;
mod verdict;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use self::{
    attack::{Attacks, Plan},
    verdict::{Expected, Verdict},
};
use crate::{
    ask::{Ask, Sampling},
    client::{Client, Target},
    gateway,
    latency::{Latencies, Summary},
    streamed::Streamed,
};

/// What happens.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Streams that are open at the same time.
    #[arg(long, default_value_t = 50)]
    pub streams: u32,
    /// How long workers are attacked.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "60s")]
    pub duration: Duration,
    /// Time between two attacks.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "5s")]
    pub every: Duration,
    /// Attack at random moments, as many in all.
    #[arg(long)]
    pub random: bool,
    /// Attacks that freeze a worker (SIGSTOP) instead of killing it (SIGKILL).
    #[arg(long, default_value_t = 1)]
    pub freezes: u32,
    /// Tokens of each stream. One that is in flight during two freezes or eight kills without a new token in between
    /// ends with an error by design; any number of attacks does not matter to one that goes on between them.
    #[arg(long, default_value_t = 24)]
    pub tokens: u32,
    /// Of the random moments and of the choice of workers.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// What clients saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Streams that were asked for during the attacks.
    pub streams: u64,
    /// Those that ended as they should, with the expected text.
    pub whole: u64,
    /// The others, by what went wrong.
    pub lost: BTreeMap<String, u64>,
    /// Streams that ended as they should, with another text.
    pub different: u64,
    /// Streams that did not have exactly one terminal event.
    pub not_one_end: u64,
    /// 429s with a `Retry-After`, which clients honoured. Nothing was lost: the request had not been admitted.
    pub deferred: u64,
    /// Workers that were killed.
    pub kills: u32,
    /// Workers that were frozen.
    pub freezes: u32,
    /// Attacks for which there was no worker.
    pub missed: u32,
    /// From a request to its first text, in microseconds.
    pub first_token: Summary,
    /// Between two events with text of a stream.
    pub gaps: Summary,
    /// Those during which a worker was attacked, whether or not it was the stream's.
    pub gaps_across_attacks: Summary,
    /// The gateway's count of restarts.
    pub restarts: Option<f64>,
    /// The gateway's count of streams that went on elsewhere.
    pub migrations: Option<f64>,
    /// Texts that were compared.
    pub texts: usize,
    /// How long it all took, in seconds.
    pub seconds: f64,
}

/// What all clients count together.
struct Tally {
    report: Report,
    first_token: Latencies,
    gaps: Latencies,
    gaps_across_attacks: Latencies,
}

/// What clients share.
struct Shared {
    client: Client,
    requests: Vec<Ask>,
    expected: Expected,
    attacks: Attacks,
    tally: Mutex<Tally>,
    end: Instant,
}

/// Different requests, at least: the more, the more different texts are compared.
const REQUESTS: u32 = 64;

/// Longer than a stream takes, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(180);

const RESTARTS: &str = "kr_worker_restarts_total";
const MIGRATIONS: &str = "kr_migrations_total";

impl Report {
    /// Whether nothing was lost and nothing was changed.
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.different == 0 && self.not_one_end == 0 && self.whole == self.streams
    }
}

/// Asks undisturbed, then under attack, and compares.
///
/// # Errors
/// The gateway doesn't answer undisturbed requests, or says nothing about its workers.
pub async fn run(client: &Client, target: &Target, args: &Args) -> Result<Report> {
    let begin = Instant::now();
    let requests = requests(&target.model, args.tokens, args.streams.max(REQUESTS));
    let expected = undisturbed(client, &requests, args.streams as usize).await?;
    let before = counters(client).await?;

    let attacks = Attacks::default();
    let plan =
        Plan { duration: args.duration, every: args.every, random: args.random, freezes: args.freezes };
    let shared = Arc::new(Shared {
        client: client.clone(),
        requests,
        expected,
        attacks: attacks.clone(),
        tally: Mutex::new(Tally::new()?),
        end: Instant::now() + args.duration,
    });
    let mut clients = JoinSet::new();
    for number in 0..args.streams {
        clients.spawn(ask_until_the_end(Arc::clone(&shared), number as usize, args.streams as usize));
    }
    let plan = plan.schedule(args.seed);
    let attacker = tokio::spawn(attack::run(client.clone(), plan, args.seed, attacks));
    while clients.join_next().await.is_some() {}
    let outcome = attacker.await??;

    let after = counters(client).await?;
    let difference = |index: usize| Some(after[index]? - before[index].unwrap_or(0.0));
    let tally = shared.tally();
    Ok(Report {
        kills: outcome.kills,
        freezes: outcome.freezes,
        missed: outcome.missed,
        first_token: tally.first_token.summary(),
        gaps: tally.gaps.summary(),
        gaps_across_attacks: tally.gaps_across_attacks.summary(),
        restarts: difference(0),
        migrations: difference(1),
        texts: shared.expected.len(),
        seconds: begin.elapsed().as_secs_f64(),
        ..tally.report.clone()
    })
}

/// Half of them greedy, half with a seed.
fn requests(model: &str, tokens: u32, count: u32) -> Vec<Ask> {
    let request = |number: u32| {
        let question = format!("Tell me something about the number {number}.");
        let temperature = if number % 2 == 1 { 0.8 } else { 0.0 };
        let sampling = Sampling { temperature, ..Sampling::GREEDY };
        Ask { sampling, seed: number.into(), ..Ask::question(model, question, tokens) }
    };
    (0..count).map(request).collect()
}

/// The texts of all requests, `at_once` of them at the same time.
async fn undisturbed(client: &Client, requests: &[Ask], at_once: usize) -> Result<Expected> {
    let mut texts = Vec::with_capacity(requests.len());
    for part in requests.chunks(at_once.max(1)) {
        let mut asked = JoinSet::new();
        for (place, request) in part.iter().enumerate() {
            let (client, body) = (client.clone(), request.body());
            asked.spawn(async move { (place, client.stream(body, |_| {}).await) });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(place, _)| *place);
        for (_, streamed) in answers {
            let fault = streamed.fault();
            ensure!(fault.is_none(), "an undisturbed request failed: {}", fault.unwrap_or_default());
            texts.push(streamed.text);
        }
    }
    Ok(Expected::new(texts))
}

/// One client: request after request, each client others.
async fn ask_until_the_end(shared: Arc<Shared>, first: usize, step: usize) {
    let mut number = first;
    while Instant::now() < shared.end {
        let place = number % shared.requests.len();
        let streamed = shared.ask(&shared.requests[place]).await;
        let verdict = Verdict::of(&streamed, shared.expected.text(place));
        shared.tally().report.count(&verdict);
        number += step + 1;
    }
}

async fn counters(client: &Client) -> Result<[Option<f64>; 2]> {
    Ok([gateway::metric(client, RESTARTS).await?, gateway::metric(client, MIGRATIONS).await?])
}

impl Shared {
    /// Asks until the request is admitted, and reads its stream.
    async fn ask(&self, request: &Ask) -> Streamed {
        loop {
            let mut last = Instant::now();
            let mut first = true;
            let stream = self.client.stream(request.body(), |now| {
                let mut tally = self.tally();
                if std::mem::take(&mut first) {
                    tally.first_token.record(now - last);
                } else {
                    tally.gaps.record(now - last);
                    if self.attacks.any_since(last) {
                        tally.gaps_across_attacks.record(now - last);
                    }
                }
                last = now;
            });
            let streamed = timeout(PATIENCE, stream).await.unwrap_or_else(|_| Streamed {
                broken: Some(format!("no end within {PATIENCE:?}")),
                ..Streamed::default()
            });
            match streamed.refused.as_ref().and_then(verdict::comes_back) {
                Some(after) => {
                    self.tally().report.deferred += 1;
                    sleep(after).await;
                }
                None => return streamed,
            }
        }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    fn new() -> Result<Self> {
        let new = Latencies::new;
        Ok(Self { report: Report::default(), first_token: new()?, gaps: new()?, gaps_across_attacks: new()? })
    }
}

impl Report {
    fn count(&mut self, verdict: &Verdict) {
        self.streams += 1;
        match verdict {
            Verdict::Whole => self.whole += 1,
            Verdict::Different => self.different += 1,
            Verdict::Lost { fault, one_end } => {
                *self.lost.entry(fault.clone()).or_default() += 1;
                self.not_one_end += u64::from(!one_end);
            }
        }
    }
}
