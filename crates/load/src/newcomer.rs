//! A long prompt that arrives while a stream goes on: how long that stream waits between its tokens then, and before.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use crate::{
    answer::Answer,
    ask::{Ask, Sampling},
    client::{Client, Target},
    latency::{Latencies, Summary},
    prompts,
};

/// How long the prompt is.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Words of the long prompt.
    #[arg(long, default_value_t = 6000)]
    pub words: u32,
    /// For how long the stream has the server for itself before.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "3s")]
    pub quiet: Duration,
    /// Tokens of the stream, more than it gets until the newcomer's first token.
    #[arg(long, default_value_t = 6000)]
    pub tokens: u32,
}

/// What the two clients saw.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Between two texts of the stream, before the newcomer.
    pub quiet: Summary,
    /// The same from the newcomer's request to its first text.
    pub during: Summary,
    /// The newcomer's answer.
    pub newcomer: Answer,
}

/// When a stream's texts came. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
struct Texts {
    times: Arc<Mutex<Vec<Instant>>>,
    came: Arc<Notify>,
}

/// For the stream to begin.
const BEGIN: Duration = Duration::from_secs(60);

/// Tokens of the newcomer's answer.
const ANSWER: u32 = 2;

/// Opens the stream, and after a while sends the long prompt.
///
/// # Errors
/// One of the two is not answered as it should, or the stream ends before the newcomer's first text.
pub async fn run(client: &Client, target: &Target, args: &Args) -> Result<Report> {
    // Drawn, so that it does not soon repeat itself: that would be guessed, and come faster than it is computed.
    let sampling = Sampling { temperature: 1.0, top_p: 1.0 };
    let ask = Ask::question(&target.model, "Tell me a very long story.", args.tokens);
    let ask = Ask { sampling, ..ask };
    let texts = Texts::default();
    let stream = tokio::spawn({
        let (client, texts) = (client.clone(), texts.clone());
        async move { client.stream(ask.body(), |now| texts.push(now)).await }
    });
    let begun = timeout(BEGIN, texts.came.notified()).await;
    begun.with_context(|| format!("the stream did not begin within {BEGIN:?}"))?;
    sleep(args.quiet).await;

    let long = prompts::words(0, args.words).join(" ");
    let begin = Instant::now();
    let newcomer = Answer::to(client, Ask::question(&target.model, long, ANSWER)).await;
    let newcomer = newcomer.context("the long prompt")?;
    ensure!(!stream.is_finished(), "the stream ended before the newcomer's answer; give it more --tokens");
    // Its client leaves.
    stream.abort();

    let end = begin + Duration::from_secs_f64(newcomer.first_token);
    let (quiet, during) = split(&texts.lock(), begin, end)?;
    Ok(Report { quiet, during, newcomer })
}

impl Texts {
    fn push(&self, time: Instant) {
        self.lock().push(time);
        self.came.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The gaps between `times` that ended before `begin`, and those of which some part is between `begin` and `end`.
fn split(times: &[Instant], begin: Instant, end: Instant) -> Result<(Summary, Summary)> {
    let (mut quiet, mut during) = (Latencies::new()?, Latencies::new()?);
    for (&before, &after) in times.iter().zip(times.iter().skip(1)) {
        if after <= begin {
            quiet.record(after - before);
        } else if before < end {
            during.record(after - before);
        }
    }
    Ok((quiet.summary(), during.summary()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_that_the_newcomer_meets_counts_whole() -> Result<()> {
        let zero = Instant::now();
        let at = |millis| zero + Duration::from_millis(millis);
        let times = [0, 1, 2, 3, 53, 103, 104, 105].map(at);
        let (quiet, during) = split(&times, at(4), at(103))?;
        assert_eq!((quiet.count, during.count), (3, 2));
        assert!((during.p50 / 50e3 - 1.0).abs() < 0.002 && (quiet.max / 1e3 - 1.0).abs() < 0.002);
        Ok(())
    }
}
