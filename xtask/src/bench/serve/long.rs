//! Long prompts at once.

use anyhow::Result;

use super::{Bench, contender::Room, speed};
use crate::bench::figures::Figures;

/// Prompts.
const STREAMS: u32 = 4;

/// Words of each; with the template's own tokens some 1,000 tokens.
const WORDS: u32 = 984;

/// Tokens of each answer.
const TOKENS: u32 = 64;

/// One table.
pub(super) fn run(bench: &Bench) -> Result<()> {
    let (words, tokens) = (bench.effort.count(WORDS), bench.effort.count(TOKENS));
    let experiment = format!("--streams {STREAMS} --words {words} --tokens {tokens}");
    let (contenders, room) = (bench.contenders(), Room { sequences: STREAMS, tokens: WORDS + 2 * TOKENS });
    let mut figures = Figures::default();
    for reports in bench.in_turns(&contenders, room, |server| server.streams(&experiment))? {
        for (contender, report) in contenders.iter().zip(&reports) {
            speed::add(&mut figures, &contender.to_string(), report, contender.goal("at most 100"))?;
        }
        if let [ours, theirs] = &reports[..] {
            figures.add(
                "kr-serve / llama-server, tokens a second",
                "",
                speed::rate(ours)? / speed::rate(theirs)?,
            );
        }
    }
    figures.print(&format!("{STREAMS} prompts of {words} words at once, {tokens} tokens each"));
    Ok(())
}
