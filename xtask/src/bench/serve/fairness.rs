//! A long prompt that arrives while a stream goes on.

use anyhow::Result;

use super::{Bench, contender::Room, speed::millis};
use crate::{bench::figures::Figures, load::number};

/// Words of the prompt; with the template's own tokens some 6,000 tokens.
const WORDS: u32 = 5970;

/// Seconds that the stream has for itself before.
const QUIET: u32 = 4;

/// Tokens of the stream: more than it gets meanwhile.
const TOKENS: u32 = 7500;

/// One table.
pub(super) fn run(bench: &Bench) -> Result<()> {
    let (words, quiet) = (bench.effort.count(WORDS), bench.effort.seconds(QUIET));
    let experiment = format!("newcomer --words {words} --quiet {quiet} --tokens {TOKENS}");
    let (contenders, room) = (bench.contenders(), Room { sequences: 2, tokens: 8192 });
    let mut figures = Figures::default();
    for reports in bench.in_turns(&contenders, room, |server| server.run(&experiment))? {
        for (contender, report) in contenders.iter().zip(&reports) {
            let (before, during) = (millis(report, "/quiet/p99")?, millis(report, "/during/p99")?);
            for (what, goal, value) in [
                ("between tokens p50 before, ms", "", millis(report, "/quiet/p50")?),
                ("between tokens p99 before, ms", "", before),
                ("between tokens p50 meanwhile, ms", "", millis(report, "/during/p50")?),
                ("between tokens p99 meanwhile, ms", "", during),
                ("p99, times as long", contender.goal("at most 4"), during / before),
                ("tokens of the stream meanwhile", "", number(report, "/during/count")?),
                ("tokens of the long prompt", "", number(report, "/newcomer/usage/prompt")?),
                ("its first token, s", "", number(report, "/newcomer/first_token")?),
            ] {
                figures.add(&format!("{contender}, {what}"), goal, value);
            }
        }
    }
    figures.print(&format!("A prompt of {words} words arrives while a stream goes on"));
    Ok(())
}
