//! `kr-bench-worker`: a worker whose engine costs next to nothing, so that what is measured is the gateway.
//!
//! It speaks the same handshake and the same rings as `kr-worker`, and the gateway starts it with `--worker-bin`. It has no
//! model: a token is a function of the prompt, the seed and the position, so that its streams can be continued by another
//! one, and checked. It is for measurements and tests, and no program or package contains it.
//!
//! ```text
//! link      handshake, frames, doorbell
//! engine    streams and their tokens              pure
//! answer    operations                            pure
//! language  tokens and their text                 pure
//! ```
//!
//! One thread does everything: it takes a batch, answers it with one report, does a step if one is due, and sleeps on
//! the doorbell until the next.

mod answer;
mod engine;
mod language;
mod link;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use protocol::{
    busy_poll::BusyPoll,
    message::{ModelInfo, Report},
};

use crate::{engine::Engine, link::Link};

/// Plays a worker for a gateway that is measured.
#[derive(Debug, Parser)]
#[command(name = "kr-bench-worker", version)]
struct Cli {
    /// Local socket on which the gateway waits for this worker.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,

    /// The name under which the gateway serves it.
    #[arg(long, value_name = "NAME")]
    model: String,

    /// Artifact store. Every worker is told of it; this one has no model and opens none.
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,

    /// Tokens per second of each stream; 0 is as fast as their readers allow.
    #[arg(long, value_name = "N", env = "KR_BENCH_RATE", default_value_t = 0)]
    rate: u32,

    /// Milliseconds until it says that its model is loaded.
    #[arg(long, value_name = "MS", env = "KR_BENCH_LOAD_MS", default_value_t = 0)]
    load_ms: u64,
}

fn main() -> ExitCode {
    let started = Instant::now();
    match run(&Cli::parse(), started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kr-bench-worker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Serves a gateway until it has gone or has drained this worker.
fn run(cli: &Cli, started: Instant) -> anyhow::Result<()> {
    let mut link = Link::connect(&cli.socket)?;
    // What a model's weights would take.
    std::thread::sleep(Duration::from_millis(cli.load_ms));
    link.send(&Report::Ready(info(&cli.model, started)))?;

    let mut engine = Engine::new(cli.rate);
    let mut events = Vec::new();
    let mut busy_poll = BusyPoll::default();
    let heartbeat = link.heartbeat();
    let mut next_heartbeat = Instant::now() + heartbeat;
    loop {
        let now = Instant::now();
        if let Some(batch) = link.receive()? {
            busy_poll.found(now);
            for submission in batch.submissions {
                engine.submit(submission, now, &mut events);
            }
            link.send_events(&mut events)?;
        }
        engine.step(now, &mut events);
        link.send_events(&mut events)?;
        if engine.is_drained() {
            return link.send(&Report::Drained);
        }
        if now >= next_heartbeat {
            link.send(&Report::Heartbeat(engine.heartbeat()))?;
            next_heartbeat = now + heartbeat;
        }
        let until = engine.next_step().map_or(next_heartbeat, |step| step.min(next_heartbeat));
        if until <= now {
            continue;
        }
        if busy_poll.looks_on(now) {
            std::thread::yield_now();
        } else if !link.wait(until)? {
            return Ok(());
        }
    }
}

fn info(model: &str, started: Instant) -> ModelInfo {
    ModelInfo {
        name: model.to_owned(),
        digest: "be".repeat(32),
        architecture: "none".to_owned(),
        context_length: engine::CONTEXT,
        vocab_size: language::VOCABULARY,
        weight_bytes: 0,
        load_micros: started.elapsed().as_micros().try_into().unwrap_or(u64::MAX),
        tokenizer_micros: 0,
        kv_bytes: 0,
        other_bytes: 0,
        draft_model: None,
        embedding_size: None,
    }
}
