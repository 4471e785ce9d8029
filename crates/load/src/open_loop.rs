//! Requests at a constant rate, whatever happens to those before: so a gateway that stalls is charged with all requests
//! that should have been sent meanwhile. Latency counts from the moment at which a request should have been sent.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::{
    ask::Ask,
    client::{Client, Target},
    latency::{Latencies, Summary},
    pace::Pacer,
    process::CpuMeter,
};

/// How many requests of which kind.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Requests per second.
    #[arg(long, default_value_t = 1000)]
    pub rate: u32,
    /// For how long.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s")]
    pub duration: Duration,
    /// For how long before that, unmeasured.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "2s")]
    pub warm_up: Duration,
    /// Tokens of each answer.
    #[arg(long, default_value_t = 1)]
    pub tokens: u32,
}

/// What became of them.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Requests in the measured time.
    pub requests: u64,
    /// Those that were answered with 200.
    pub ok: u64,
    /// The others, by what went wrong.
    pub faults: BTreeMap<String, u64>,
    /// From the moment at which a request should have been sent to the end of its answer.
    pub latency: Summary,
    /// How much later than it should have been a request was sent: by how much this program distorts the latency.
    pub lateness: Summary,
    /// Of the watched process, in the measured time.
    pub cpu_seconds: Option<f64>,
    /// The measured time.
    pub seconds: f64,
}

struct Done {
    intended: Instant,
    sent: Instant,
    ended: Instant,
    fault: Option<String>,
}

/// Sends them and waits for all answers.
///
/// # Errors
/// This machine has no timer.
pub async fn run(client: &Client, target: &Target, args: &Args) -> Result<Report> {
    let question = Ask::question(&target.model, "Say something short.", args.tokens);
    let ask = Ask { stream: false, ..question };
    let body = ask.body();
    let pacer = Pacer::new()?;
    let interval = Duration::from_secs(1) / args.rate.max(1);
    let requests = |time: Duration| (time.as_secs_f64() * f64::from(args.rate)) as u32;
    let (unmeasured, measured) = (requests(args.warm_up), requests(args.duration));

    let (results, mut received) = mpsc::unbounded_channel();
    let begin = Instant::now() + Duration::from_millis(10);
    let mut cpu = CpuMeter::start(target.pid);
    for number in 0..unmeasured + measured {
        let intended = begin + interval * number;
        pacer.until(intended).await?;
        if number == unmeasured {
            cpu = CpuMeter::start(target.pid);
        }
        let (client, body, results) = (client.clone(), body.clone(), results.clone());
        let measured = number >= unmeasured;
        tokio::spawn(async move {
            let sent = Instant::now();
            let fault = request(&client, body).await;
            if measured {
                // The receiver lives as long as this experiment.
                let _ = results.send(Done { intended, sent, ended: Instant::now(), fault });
            }
        });
    }
    drop(results);
    let mut all = Vec::new();
    while let Some(done) = received.recv().await {
        all.push(done);
    }
    let cpu_seconds = cpu.seconds();
    report(&all, cpu_seconds)
}

fn report(all: &[Done], cpu_seconds: Option<f64>) -> Result<Report> {
    let (mut latency, mut lateness) = (Latencies::new()?, Latencies::new()?);
    let mut faults = BTreeMap::new();
    for done in all {
        latency.record(done.ended - done.intended);
        lateness.record(done.sent.saturating_duration_since(done.intended));
        if let Some(fault) = &done.fault {
            *faults.entry(fault.clone()).or_default() += 1;
        }
    }
    let first = all.iter().map(|done| done.intended).min();
    let last = all.iter().map(|done| done.ended).max();
    Ok(Report {
        requests: all.len() as u64,
        ok: all.iter().filter(|done| done.fault.is_none()).count() as u64,
        faults,
        latency: latency.summary(),
        lateness: lateness.summary(),
        cpu_seconds,
        seconds: first.zip(last).map_or(0.0, |(first, last)| (last - first).as_secs_f64()),
    })
}

/// Why the request was not answered as it should, if so.
pub(crate) async fn request(client: &Client, body: Bytes) -> Option<String> {
    let answered = async {
        let response = client.ask(body).await?;
        if response.status == 200 {
            return response.text().await.map(|_| None);
        }
        let refusal = response.refusal().await?;
        anyhow::Ok(Some(format!("refused with {} {}", refusal.status, refusal.code)))
    };
    answered.await.unwrap_or_else(|error| Some(format!("broken: {error:#}")))
}
