//! What a request and a streamed token cost, beside a plain server that does the least with the same requests.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{Bench, plain::PlainServer};
use crate::{
    bench::figures::Figures,
    load::{self, Setting, number},
};

/// Requests per second that are not streamed.
const RATE: u32 = 1000;

/// Streams at the same time, and tokens a second of each.
const STREAMS: u32 = 500;
const TOKEN_RATE: u32 = 50;

/// Measures both servers in turns.
pub(super) fn run(bench: &Bench<'_>) -> Result<()> {
    let mut figures = Figures::default();
    for _ in 0..bench.effort.rounds() {
        requests(bench, &mut figures)?;
    }
    figures.print(&format!(
        "{RATE} requests a second, not streamed, one token each, open loop: microseconds from the moment at which a\n\
         request should have been sent to the end of its answer"
    ));
    let mut figures = Figures::default();
    for _ in 0..bench.effort.rounds() {
        streams(bench, &mut figures)?;
    }
    figures.print(&format!("{STREAMS} streams of {TOKEN_RATE} tokens a second"));
    Ok(())
}

fn requests(bench: &Bench<'_>, figures: &mut Figures) -> Result<()> {
    let (rate, seconds) = (RATE.to_string(), bench.effort.seconds(20));
    let experiment = ["open-loop", "--rate", &rate, "--duration", &seconds];
    let plain = PlainServer::start(&bench.programs, TOKEN_RATE)?.run(&experiment)?;
    let setting = Setting { workers: 1, rate: 0, config: load::places(STREAMS) };
    let ours = bench.programs.start(&bench.trivial, &setting)?.run(&experiment)?;
    for (name, report) in [("plain server", &plain), ("gateway", &ours)] {
        ensure!(report["ok"] == report["requests"], "{name}: not all were answered: {report}");
    }
    for (which, path, goal) in
        [("p50", "/latency/p50", "150"), ("p99", "/latency/p99", "1000"), ("p99.9", "/latency/p999", "")]
    {
        let (plain, ours) = (number(&plain, path)?, number(&ours, path)?);
        figures.add(&format!("plain server, {which}"), "", plain);
        figures.add(&format!("gateway, {which}"), "", ours);
        figures.add(&format!("added, {which}"), goal, ours - plain);
    }
    figures.add("sent too late by, p99", "", number(&ours, "/lateness/p99")?);
    for (name, report) in [("plain server", &plain), ("gateway", &ours)] {
        if let Some(seconds) = report["cpu_seconds"].as_f64() {
            let each = seconds * 1e6 / number(report, "/requests")?;
            figures.add(&format!("{name}, processor time of a request"), "", each);
        }
    }
    Ok(())
}

fn streams(bench: &Bench<'_>, figures: &mut Figures) -> Result<()> {
    let (streams, tokens) = (STREAMS.to_string(), bench.effort.count(1000).to_string());
    let experiment = ["streams", "--streams", &streams, "--tokens", &tokens, "--over", "2s"];
    let plain = PlainServer::start(&bench.programs, TOKEN_RATE)?.run(&experiment)?;
    let setting = Setting { workers: 1, rate: TOKEN_RATE, config: load::places(STREAMS) };
    let ours = bench.programs.start(&bench.trivial, &setting)?.run(&experiment)?;
    let dropped = number(&ours, "/streams")? - number(&ours, "/whole")?;
    figures.add("dropped", "0", dropped);
    for (name, report, goal) in [("plain server", &plain, ""), ("gateway", &ours, "12")] {
        if let Some(each) = cpu_of_a_token(report)? {
            figures.add(&format!("{name}, processor time of a token, us"), goal, each);
        }
    }
    if let Some((ours, plain)) = cpu_of_a_token(&ours)?.zip(cpu_of_a_token(&plain)?) {
        figures.add("gateway / plain server", "", ours / plain);
    }
    for (name, report, goal) in [("plain server", &plain, ""), ("gateway", &ours, "30")] {
        figures.add(&format!("{name}, first token p50, ms"), "", number(report, "/first_token/p50")? / 1e3);
        figures.add(&format!("{name}, first token p99, ms"), goal, number(report, "/first_token/p99")? / 1e3);
        figures.add(&format!("{name}, between tokens p99, ms"), "", number(report, "/gaps/p99")? / 1e3);
    }
    if let (Some(before), Some(peak)) = (ours["memory_before"].as_f64(), ours["memory_peak"].as_f64()) {
        figures.add("gateway, memory of a stream, KiB", "", (peak - before) / 1024.0 / f64::from(STREAMS));
    }
    Ok(())
}

/// In microseconds.
fn cpu_of_a_token(report: &Value) -> Result<Option<f64>> {
    let Some(seconds) = report["cpu_seconds"].as_f64() else { return Ok(None) };
    Ok(Some(seconds * 1e6 / number(report, "/tokens")?.max(1.0)))
}
