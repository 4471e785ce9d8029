//! What needs a real model: streams at and beyond the gateway's limit, and readers that stop.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Bench;
use crate::{
    bench::{figures::Figures, table},
    load::{self, Setting, number},
};

/// Streams at the same time.
const STREAMS: [u32; 4] = [5, 20, 50, 200];

/// Places, of which three times as many clients want one.
const PLACES: u32 = 50;

/// Streams that stop reading, and all.
const SLOW: u32 = 10;
const READERS: u32 = 50;

/// 5 to 200 streams, and three times as many clients as there are places and seats to wait.
pub(super) fn capacity(bench: &Bench<'_>) -> Result<()> {
    let subject = bench.real.as_ref().context("a real model was asked for")?;
    let mut table = table(&[
        "streams",
        "whole",
        "dropped",
        "first token p50, s",
        "p99, s",
        "between tokens p99, ms",
        "tokens a second",
    ]);
    for streams in STREAMS {
        let setting = Setting { workers: 1, rate: 0, config: load::places(streams) };
        let gateway = bench.programs.start(subject, &setting)?;
        let (streams, tokens) = (streams.to_string(), bench.effort.count(100).to_string());
        let report = gateway.run(&["streams", "--streams", &streams, "--tokens", &tokens])?;
        let whole = number(&report, "/whole")?;
        let seconds = |path: &str| number(&report, path).map(|micros| format!("{:.2}", micros / 1e6));
        table.add_row([
            streams,
            format!("{whole}"),
            format!("{}{}", number(&report, "/streams")? - whole, faults(&report)),
            seconds("/first_token/p50")?,
            seconds("/first_token/p99")?,
            format!("{:.0}", number(&report, "/gaps/p99")? / 1e3),
            format!("{:.0}", number(&report, "/tokens")? / number(&report, "/seconds")?),
        ]);
    }
    println!("\n{}: streams at the same time\n\n{table}", subject.model);
    overload(bench)
}

fn overload(bench: &Bench<'_>) -> Result<()> {
    let subject = bench.real.as_ref().context("a real model was asked for")?;
    // Half as many may wait as have places, so that others are refused.
    let waiting = PLACES / 2;
    let config = format!("{}server:\n  port: 0\n", load::places(PLACES)).replace(
        "stream_registry:\n",
        &format!("stream_registry:\n  max_waiting: {waiting}\n  wait_timeout_ms: 10000\n"),
    );
    let gateway = bench.programs.start(subject, &Setting { workers: 1, rate: 0, config })?;
    let (clients, tokens) = ((3 * PLACES).to_string(), bench.effort.count(50).to_string());
    let report = gateway.run(&["streams", "--streams", &clients, "--tokens", &tokens, "--retry", "10m"])?;
    let mut figures = Figures::default();
    figures.add("clients", "", number(&report, "/streams")?);
    figures.add("served in the end", "all", number(&report, "/whole")?);
    let hinted = report["refusals"].as_object().into_iter().flat_map(|refusals| refusals.values());
    figures.add("refusals with Retry-After", "", hinted.filter_map(Value::as_f64).sum());
    figures.add("refusals without", "0", number(&report, "/refusals_without_hint")?);
    for (what, path) in [("p50", "/first_token/p50"), ("p99", "/first_token/p99")] {
        figures.add(&format!("first token of admitted requests {what}, s"), "", number(&report, path)? / 1e6);
    }
    let longest = number(&report, "/first_token_after_all/max")? / 1e6;
    figures.add("longest way to a first token, refusals included, s", "", longest);
    figures.print(&format!(
        "{}: {clients} clients at once, {PLACES} places, {waiting} may wait{}",
        subject.model,
        faults(&report)
    ));
    Ok(())
}

/// Streams that stop reading for a while.
pub(super) fn slow_readers(bench: &Bench<'_>) -> Result<()> {
    let subject = bench.real.as_ref().context("a real model was asked for")?;
    let config = format!("server:\n  slow_consumer_timeout_ms: 600000\n{}", load::places(READERS));
    let mut figures = Figures::default();
    for _ in 0..bench.effort.rounds() {
        let setting = Setting { workers: 1, rate: 0, config: config.clone() };
        let gateway = bench.programs.start(subject, &setting)?;
        let (streams, slow) = (READERS.to_string(), SLOW.to_string());
        let (pause, tokens) = (bench.effort.seconds(20), bench.effort.count(1200).to_string());
        let mut experiment = vec!["slow-readers", "--streams", &streams, "--slow", &slow];
        experiment.extend(["--pause", &pause, "--tokens", &tokens]);
        let report = gateway.run(&experiment)?;
        experiment.push("--control");
        let control = gateway.run(&experiment)?;
        let (before, during) = (number(&report, "/rate_before")?, number(&report, "/rate_during")?);
        let (early, late) = (number(&control, "/rate_before")?, number(&control, "/rate_during")?);
        figures.add("tokens a second of the others, before", "", before);
        figures.add("during the pause", "", during);
        figures.add("without a pause: before", "", early);
        figures.add("at the time of the pause", "", late);
        figures.add(
            "loss, beyond that of the time, %",
            "5",
            (1.0 - (during / before) / (late / early)) * 100.0,
        );
        figures.add("slow ones with their whole text", "all", number(&report, "/slow_whole")?);
        figures.add("others with their whole text", "all", number(&report, "/others_whole")?);
        figures.add("different texts of one request", "1", number(&report, "/texts")?);
        for (what, key) in [("before", "memory_before"), ("at most during the pause", "memory_peak")] {
            if let Some(bytes) = report[key].as_f64() {
                figures.add(&format!("gateway's memory {what}, MB"), "", bytes / 1e6);
            }
        }
    }
    figures.print(&format!("{}: {SLOW} of {READERS} streams stop reading", subject.model));
    Ok(())
}

/// What went wrong, if anything did.
fn faults(report: &Value) -> String {
    let faults = report["faults"].as_object().into_iter().flatten();
    faults.map(|(fault, count)| format!("; {count} times: {fault}")).collect()
}
