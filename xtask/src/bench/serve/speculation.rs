//! What guesses gain where a text is written again, and cost where nothing repeats itself.

use anyhow::Result;

use super::{
    Bench,
    contender::{Contender, Room, Running},
    speed,
};
use crate::bench::figures::Figures;

/// Streams at the same time.
const STREAMS: [u32; 3] = [1, 8, 32];

/// Tokens of each answer: as many as the text has.
const TOKENS: u32 = 110;

/// What is asked, and what the gain has to be.
const ASKED: [(&str, &str, &str); 3] = [
    ("a text again", "--edit --words 6", "above 1"),
    ("free text", "", "at least 1"),
    ("free text, drawn", "--temperature 0.8 --top-p 0.95", "at least 1"),
];

/// One table for each number of streams.
pub(super) fn run(bench: &Bench) -> Result<()> {
    let contenders = [Contender::WithoutSpeculation, Contender::KrServe];
    for streams in STREAMS {
        let mut figures = Figures::default();
        let room = Room { sequences: streams, tokens: 512 };
        for rates in bench.in_turns(&contenders, room, |server| measure(bench, server, streams))? {
            let [without, with] = &rates[..] else { continue };
            for (((asked, _, goal), without), with) in ASKED.iter().zip(without).zip(with) {
                figures.add(&format!("{asked}, tokens a second without"), "", *without);
                figures.add(&format!("{asked}, tokens a second with"), "", *with);
                figures.add(&format!("{asked}, with / without"), goal, with / without);
            }
        }
        figures.print(&format!("{streams} streams, with guesses and without"));
    }
    Ok(())
}

/// Tokens a second of each that is asked.
fn measure(bench: &Bench, server: &Running<'_>, streams: u32) -> Result<Vec<f64>> {
    let (tokens, requests) = (bench.effort.count(TOKENS), (16 / streams).max(2));
    let rate = |(place, (_, arguments, _)): (u32, &(&str, &str, &str))| {
        let first = place * 1000;
        let numbers = format!("--streams {streams} --requests {requests} --tokens {tokens} --first {first}");
        speed::rate(&server.streams(format!("{numbers} {arguments}").trim_end())?)
    };
    (1..).zip(&ASKED).map(rate).collect()
}
