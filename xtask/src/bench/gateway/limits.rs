//! Clients that leave, connections that never ask, and many requests: what is left of them.

use anyhow::{Result, ensure};

use super::Bench;
use crate::{
    bench::figures::Figures,
    load::{self, Setting, Subject, number},
};

/// Clients at once whose requests are cancelled.
const CLIENTS: u32 = 50;

/// Tokens a second of each stream.
const RATE: u32 = 200;

/// Requests whose clients leave, with both engines if there is a real one.
pub(super) fn cancels(bench: &Bench<'_>) -> Result<()> {
    let count = bench.effort.count(10_000).to_string();
    let clients = CLIENTS.to_string();
    let subjects = [Some(&bench.trivial), bench.real.as_ref()];
    for subject in subjects.into_iter().flatten() {
        let setting = Setting { workers: 1, rate: RATE, config: load::places(CLIENTS) };
        let gateway = bench.programs.start(subject, &setting)?;
        // A client of a real model stays long enough to leave in any stage.
        let within = if is_real(bench, subject) { "1s" } else { "100ms" };
        let report =
            gateway.run(&["cancels", "--count", &count, "--concurrency", &clients, "--within", within])?;
        let mut figures = Figures::default();
        figures.add("cancelled", "", number(&report, "/cancelled")?);
        figures.add("refused", "0", number(&report, "/refused")?);
        for key in ["permits", "streams", "sequences", "kv_tokens"] {
            let what = format!("{} still held", key.replace('_', " "));
            figures.add(&what, "0", number(&report, &format!("/held/{key}"))?);
        }
        figures.add("streams afterwards", "", number(&report, "/streams_after")?);
        figures.add("of these whole", "all", number(&report, "/whole_after")?);
        figures.print(&format!("{count} requests whose clients leave at random moments, {}", subject.model));
    }
    Ok(())
}

fn is_real(bench: &Bench<'_>, subject: &Subject) -> bool {
    bench.real.as_ref().is_some_and(|real| real.model == subject.model)
}

/// Connections whose request never becomes complete.
pub(super) fn half_open(bench: &Bench<'_>) -> Result<()> {
    let count = bench.effort.count(2000).to_string();
    let setting = Setting { workers: 1, rate: 0, config: load::places(CLIENTS) };
    let gateway = bench.programs.start(&bench.trivial, &setting)?;
    let report = gateway.run(&["half-open", "--connections", &count])?;
    let mut figures = Figures::default();
    figures.add("opened", "", number(&report, "/opened")?);
    figures.add("closed by the gateway", "all", number(&report, "/closed")?);
    figures.add("after at most, s", "", number(&report, "/closed_after/max")? / 1e6);
    figures.add("requests of others served meanwhile", "", number(&report, "/served")?);
    figures.add("not served", "0", number(&report, "/failed")?);
    figures.add("their latency p99, ms", "", number(&report, "/latency/p99")? / 1e3);
    figures.print(&format!("{count} connections with half a request header"));
    Ok(())
}

/// Memory that is kept of many requests.
pub(super) fn memory(bench: &Bench<'_>) -> Result<()> {
    let (count, warm_up) = (bench.effort.count(100_000).to_string(), bench.effort.count(20_000).to_string());
    let mut figures = Figures::default();
    for _ in 0..bench.effort.rounds() {
        let setting = Setting { workers: 1, rate: 0, config: load::places(CLIENTS) };
        let gateway = bench.programs.start(&bench.trivial, &setting)?;
        let report = gateway.run(&["memory", "--count", &count, "--warm-up", &warm_up])?;
        ensure!(report["failed"] == 0, "not all were answered: {report}");
        figures.add("growth with each request, bytes", "1024", number(&report, "/bytes_per_request")?);
        for (what, path) in [("before", "/memory_begin"), ("after", "/memory_end")] {
            figures.add(&format!("resident {what}, MB"), "", number(&report, path)? / 1e6);
        }
    }
    figures.print(&format!("{count} requests, half of them streamed, after {warm_up} others"));
    Ok(())
}
