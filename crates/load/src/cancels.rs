//! Requests whose clients leave at random moments, and what is still held when all have left.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    ask::Ask,
    client::{Client, Target},
    gateway::{self, Held},
    streams,
};

/// How many requests.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Requests.
    #[arg(long, default_value_t = 10_000)]
    pub count: u32,
    /// At the same time.
    #[arg(long, default_value_t = 50)]
    pub concurrency: u32,
    /// A client leaves within this time.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "100ms")]
    pub within: Duration,
    /// Most tokens of an answer, if its client stayed: short ones end at about the time at which clients leave.
    #[arg(long, default_value_t = 40)]
    pub tokens: u32,
    /// Of the random moments.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Clients that left before the end.
    pub cancelled: u64,
    /// Clients that were refused.
    pub refused: u64,
    /// What is still held afterwards: all zero, or something leaks.
    pub held: Held,
    /// As many streams as there were clients at once, afterwards.
    pub streams_after: u32,
    /// Those of them that ended as they should.
    pub whole_after: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    cancelled: u64,
    refused: u64,
}

/// For the gateway to notice that the last clients have left.
const SETTLE: Duration = Duration::from_secs(30);

/// Sends all requests, leaves them, and looks at what is held.
///
/// # Errors
/// The gateway doesn't answer.
pub async fn run(client: &Client, target: &Target, args: &Args) -> Result<Report> {
    let mut clients = JoinSet::new();
    for number in 0..args.concurrency {
        let count = args.count / args.concurrency + u32::from(number < args.count % args.concurrency);
        let (client, model, args) = (client.clone(), target.model.clone(), args.clone());
        clients.spawn(async move {
            let random = fastrand::Rng::with_seed(args.seed.wrapping_add(number.into()));
            leave_often(&client, &model, &args, count, random).await
        });
    }
    let mut total = Counts::default();
    while let Some(counts) = clients.join_next().await {
        let Counts { cancelled, refused } = counts?;
        total.cancelled += cancelled;
        total.refused += refused;
    }
    let held = gateway::held_after(client, SETTLE).await?;
    let after = streams::run(client, target, &streams::Args::at_once(args.concurrency, 20)).await?;
    let Counts { cancelled, refused } = total;
    Ok(Report { cancelled, refused, held, streams_after: after.streams, whole_after: after.whole })
}

/// One client after the other.
async fn leave_often(
    client: &Client,
    model: &str,
    args: &Args,
    count: u32,
    mut random: fastrand::Rng,
) -> Counts {
    let mut counts = Counts::default();
    for number in 0..count {
        // Some prompts are equal, so that their sequences share blocks.
        let prompt = format!("Tell me something about the number {}.", number % 7);
        let stream = random.bool();
        let tokens = random.u32(1..=args.tokens.max(1));
        let ask = Ask { stream, ..Ask::question(model, prompt, tokens) };
        let stays = args.within.mul_f64(random.f64());
        let answered = async {
            if stream {
                return client.stream(ask.body(), |_| {}).await.refused.is_some();
            }
            match client.ask(ask.body()).await {
                Ok(response) if response.status == 200 => response.text().await.is_err(),
                Ok(_) => true,
                Err(_) => false,
            }
        };
        match timeout(stays, answered).await {
            Err(_left) => counts.cancelled += 1,
            Ok(refused) => counts.refused += u64::from(refused),
        }
    }
    counts
}
