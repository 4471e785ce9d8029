//! Clients with short prompts, each of which asks again when it has its answer.

use anyhow::Result;

use super::{Bench, contender::Room, speed};
use crate::bench::figures::Figures;

/// Clients at the same time.
const STREAMS: [u32; 5] = [1, 8, 32, 50, 200];

/// Tokens of each answer.
const TOKENS: u32 = 64;

/// Tokens of a prompt of the default length, at most.
const PROMPT: u32 = 64;

/// Requests in all, at least; and of each client at least two.
const REQUESTS: u32 = 16;

/// One table for each number of clients.
pub(super) fn run(bench: &Bench) -> Result<()> {
    STREAMS.iter().try_for_each(|&streams| at_once(bench, streams))
}

fn at_once(bench: &Bench, streams: u32) -> Result<()> {
    let (rate_goal, first_goal) = match streams {
        1 => ("", ""),
        50 => ("at least 3", "at least 10"),
        _ => ("at least 3", ""),
    };
    let requests = bench.effort.count((REQUESTS / streams).max(2));
    let (streams, tokens) = (bench.effort.count(streams), bench.effort.count(TOKENS));
    let experiment = format!("--streams {streams} --requests {requests} --tokens {tokens}");
    let (contenders, room) = (bench.contenders(), Room { sequences: streams, tokens: PROMPT + TOKENS });
    let mut figures = Figures::default();
    for reports in bench.in_turns(&contenders, room, |server| server.streams(&experiment))? {
        for (contender, report) in contenders.iter().zip(&reports) {
            speed::add(&mut figures, &contender.to_string(), report, "")?;
        }
        if let [ours, theirs] = &reports[..] {
            let ratio = speed::rate(ours)? / speed::rate(theirs)?;
            figures.add("kr-serve / llama-server, tokens a second", rate_goal, ratio);
            let first = "/first_token/p50";
            let ratio = speed::seconds(theirs, first)? / speed::seconds(ours, first)?;
            figures.add("llama-server / kr-serve, first token p50", first_goal, ratio);
        }
    }
    figures.print(&format!("Streams at the same time: {streams}, {requests} x {tokens} tokens each"));
    Ok(())
}
