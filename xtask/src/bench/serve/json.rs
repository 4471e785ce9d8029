//! Answers that have to be JSON of some schema: whether they are, and what a token of them costs.

use anyhow::Result;

use super::{
    Bench,
    contender::{Contender, Room, Running},
    speed,
};
use crate::{bench::figures::Figures, load::number};

/// Streams at the same time.
const STREAMS: [u32; 3] = [1, 8, 50];

/// Tokens of each.
const TOKENS: u32 = 64;

/// Requests for each of ten schemas.
const EACH: u32 = 20;

/// Two tables.
pub(super) fn run(bench: &Bench) -> Result<()> {
    let mut figures = Figures::default();
    let experiment = format!("schemas --each {}", bench.effort.count(EACH));
    let room = Room { sequences: 20, tokens: 1024 };
    for report in bench.in_turns(&[Contender::KrServe], room, |server| server.run(&experiment))?.concat() {
        for fault in report["faults"].as_object().into_iter().flatten() {
            eprintln!("not as it should be: {fault:?}");
        }
        let [asked, valid, cut] = ["/asked", "/valid", "/cut"].map(|path| number(&report, path));
        let (beside, whole) = (number(&report, "/beside")?, number(&report, "/beside_whole")?);
        figures.add("answers with a schema", "", asked?);
        figures.add("of them valid", "all", valid?);
        figures.add("of them cut by max_tokens", "", cut?);
        figures.add("answers without one in the same batches", "", beside);
        figures.add("of them whole", "all", whole);
    }
    figures.print("Ten schemas at temperature 1, beside free text");

    let mut figures = Figures::default();
    for streams in STREAMS {
        let room = Room { sequences: streams, tokens: 256 };
        for (free, json) in
            bench.in_turns(&[Contender::KrServe], room, |server| rates(bench, server, streams))?.concat()
        {
            figures.add(&format!("{streams} streams, free text, tokens a second"), "", free);
            figures.add(&format!("{streams} streams, JSON, tokens a second"), "", json);
            let micros = 1e6 / json - 1e6 / free;
            figures.add(&format!("{streams} streams, a token of JSON costs more by, us"), "", micros);
        }
    }
    figures.print("What a constraint costs");
    Ok(())
}

/// Tokens a second without and with a constraint: there and back.
fn rates(bench: &Bench, server: &Running<'_>, streams: u32) -> Result<(f64, f64)> {
    let tokens = bench.effort.count(TOKENS);
    let rate = |first: u32, json: &str| {
        let first = first * 1000;
        speed::rate(&server.streams(&format!("--streams {streams} --tokens {tokens} --first {first}{json}"))?)
    };
    let rates = [rate(1, "")?, rate(2, " --json")?, rate(3, " --json")?, rate(4, "")?];
    Ok(((rates[0] + rates[3]) / 2.0, (rates[1] + rates[2]) / 2.0))
}
