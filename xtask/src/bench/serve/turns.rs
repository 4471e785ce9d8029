//! A conversation that grows: each turn should cost what its new tokens do.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Bench, contender::Room};
use crate::{
    bench::{figures::shown, statistics::Sample, table},
    load::number,
};

/// Turns.
const TURNS: usize = 10;

/// Words of each message, and tokens of each answer: with the template's own tokens 600 a turn.
const WORDS: u32 = 550;
const TOKENS: u32 = 40;

/// One table for each server.
pub(super) fn run(bench: &Bench) -> Result<()> {
    let (words, tokens) = (bench.effort.count(WORDS), bench.effort.count(TOKENS));
    let experiment = format!("turns --turns {TURNS} --words {words} --tokens {tokens}");
    let (contenders, room) = (bench.with_and_without_prefix_cache(), Room { sequences: 1, tokens: 8192 });
    let rounds = bench.in_turns(&contenders, room, |server| server.run(&experiment))?;
    for (place, contender) in contenders.iter().enumerate() {
        let reports: Vec<&Value> = rounds.iter().map(|reports| &reports[place]).collect();
        println!("\n{contender}: a conversation, {words} words and an answer of {tokens} tokens each turn\n");
        print(&reports)?;
    }
    Ok(())
}

fn print(reports: &[&Value]) -> Result<()> {
    let mut table = table(&[
        "turn",
        "prompt tokens",
        "of these cached",
        "first token, s",
        "least - most",
        "ms for a new token",
    ]);
    for turn in 0..TURNS {
        let path = |key: &str| format!("/turns/{turn}/{key}");
        let mut first_token = Sample::default();
        for report in reports {
            first_token.add(number(report, &path("first_token"))?);
        }
        // The same in all rounds.
        let report = reports.first().context("there was no round")?;
        let (prompt, cached) =
            (number(report, &path("usage/prompt"))?, number(report, &path("usage/cached"))?);
        table.add_row([
            (turn + 1).to_string(),
            prompt.to_string(),
            cached.to_string(),
            shown(first_token.median()),
            format!("{} - {}", shown(first_token.min()), shown(first_token.max())),
            shown(first_token.median() * 1e3 / (prompt - cached)),
        ]);
    }
    println!("{table}");
    Ok(())
}
