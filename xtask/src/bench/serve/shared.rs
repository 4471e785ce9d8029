//! Prompts that begin alike, with and without `prefix_cache.enabled`.

use anyhow::Result;
use serde_json::Value;

use super::{
    Bench,
    contender::{Contender, Room, Running},
    speed,
};
use crate::{bench::figures::Figures, load::number};

/// Prompts at once.
const STREAMS: u32 = 4;

/// Words that they share, with the template's beginning 768 tokens, and that each has for itself, of 796.
const SHARED: u32 = 765;
const OWN: u32 = 15;

/// Tokens of each answer.
const TOKENS: u32 = 32;

/// Words that two requests share of which one comes after the other, with the template's beginning 800 tokens.
const SHARED_LATER: u32 = 797;

/// What one server reached.
struct Results {
    at_once: Value,
    first: Value,
    later: Value,
}

/// One table.
pub(super) fn run(bench: &Bench) -> Result<()> {
    let contenders = bench.with_and_without_prefix_cache();
    let room = Room { sequences: STREAMS, tokens: 1024 };
    let mut figures = Figures::default();
    for results in bench.in_turns(&contenders, room, |server| measure(bench, server))? {
        for (contender, results) in contenders.iter().zip(&results) {
            add(&mut figures, *contender, results)?;
        }
        if let [off, on, ..] = &results[..] {
            let ratio = speed::rate(&on.at_once)? / speed::rate(&off.at_once)?;
            figures.add("on / off, tokens a second", "", ratio);
        }
    }
    let (shared, later) = (bench.effort.count(SHARED), bench.effort.count(SHARED_LATER));
    figures.print(&format!(
        "{STREAMS} prompts at once that share {shared} words, and one that shares {later} words with an earlier one"
    ));
    Ok(())
}

fn measure(bench: &Bench, server: &Running<'_>) -> Result<Results> {
    let (shared, later) = (bench.effort.count(SHARED), bench.effort.count(SHARED_LATER));
    let at_once =
        format!("--streams {STREAMS} --words {OWN} --shared {shared} --tokens {TOKENS} --common 1000");
    let single = format!("--streams 1 --words {OWN} --shared {later} --tokens 8 --common 2000");
    Ok(Results {
        at_once: server.streams(&at_once)?,
        first: server.streams(&format!("{single} --first 100"))?,
        later: server.streams(&format!("{single} --first 101"))?,
    })
}

fn add(figures: &mut Figures, contender: Contender, results: &Results) -> Result<()> {
    let Results { at_once, first, later } = results;
    let first_token = |report| speed::seconds(report, "/first_token/max");
    let (first, after) = (first_token(first)?, first_token(later)?);
    for (what, goal, value) in [
        ("tokens a second", "", speed::rate(at_once)?),
        ("first token p50, s", "", speed::seconds(at_once, "/first_token/p50")?),
        ("last first token, s", "", first_token(at_once)?),
        ("one prompt: first token, s", "", first),
        ("one that begins like it: first token, s", "", after),
        ("its cached tokens", "", number(later, "/usage/cached")?),
        ("sooner than the first", contender.goal("at least 10"), first / after),
    ] {
        figures.add(&format!("{contender}, {what}"), goal, value);
    }
    Ok(())
}
