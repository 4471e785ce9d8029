//! What it costs that tokens are drawn.

use anyhow::Result;

use super::{
    Bench,
    contender::{Contender, Room, Running},
    speed,
};
use crate::bench::figures::Figures;

/// Streams at the same time.
const STREAMS: u32 = 50;

/// Tokens of each answer.
const TOKENS: u32 = 64;

/// How they are drawn.
const DRAWN: &str = "--temperature 0.8 --top-p 0.95";

/// Tokens a second.
struct Rates {
    greedy: f64,
    drawn: f64,
}

/// One table.
pub(super) fn run(bench: &Bench) -> Result<()> {
    let room = Room { sequences: STREAMS, tokens: 2 * TOKENS };
    let mut figures = Figures::default();
    let rounds = bench.in_turns(&[Contender::KrServe], room, |server| measure(bench, server))?;
    for Rates { greedy, drawn } in rounds.into_iter().flatten() {
        figures.add("greedy, tokens a second", "", greedy);
        figures.add("drawn, tokens a second", "", drawn);
        figures.add("drawn / greedy", "at least 0.95", drawn / greedy);
    }
    figures.print(&format!("{STREAMS} streams with {DRAWN}, beside greedy ones"));
    Ok(())
}

/// There and back, so that a machine that becomes slower or faster is no advantage to either.
fn measure(bench: &Bench, server: &Running<'_>) -> Result<Rates> {
    let tokens = bench.effort.count(TOKENS);
    let rate = |first: u32, sampling: &str| {
        let place = first * STREAMS;
        let arguments = format!("--streams {STREAMS} --tokens {tokens} --first {place}");
        speed::rate(&server.streams(&format!("{arguments}{sampling}"))?)
    };
    let drawn = format!(" {DRAWN}");
    let rates = [rate(0, "")?, rate(1, &drawn)?, rate(2, &drawn)?, rate(3, "")?];
    Ok(Rates { greedy: (rates[0] + rates[3]) / 2.0, drawn: (rates[1] + rates[2]) / 2.0 })
}
