//! What a worker keeps of many requests.

use anyhow::Result;
use serde_json::Value;

use super::Bench;
use crate::{
    bench::figures::Figures,
    load::{self, number},
};

/// Clients at once.
const CLIENTS: u32 = 8;

/// A worker's memory for keys and values: the warm-up fills it, since what is kept of requests takes all that there is.
const KV_MAX_BYTES: &str = "320MiB";

/// One table with kept prefixes, and one without.
pub(super) fn run(bench: &Bench) -> Result<()> {
    let (count, warm_up) = (bench.effort.count(2000), bench.effort.count(2000));
    let experiment = format!("leaks --concurrency {CLIENTS} --count {count} --warm-up {warm_up}");
    for keeps in [false, true] {
        let config = format!(
            "{}  kv_max_bytes: {KV_MAX_BYTES}\nprefix_cache:\n  enabled: {keeps}\n",
            load::places(CLIENTS)
        );
        let mut figures = Figures::default();
        for _ in 0..bench.effort.rounds() {
            let report = bench.start_ours(config.clone())?.run(&experiment)?;
            add(&mut figures, &report, keeps)?;
        }
        let what = if keeps { "with" } else { "without" };
        figures.print(&format!(
            "{count} requests, a third of them given up, after {warm_up} others, {what} kept prefixes"
        ));
    }
    Ok(())
}

fn add(figures: &mut Figures, report: &Value, keeps: bool) -> Result<()> {
    figures.add("answered", "", number(report, "/answered")?);
    figures.add("given up", "", number(report, "/cancelled")?);
    figures.add("failed", "0", number(report, "/failed")?);
    figures.add("growth with each request, bytes", "at most 1024", number(report, "/bytes_per_request")?);
    for (what, path) in [("before", "/memory_begin"), ("after", "/memory_end")] {
        figures.add(&format!("anonymous memory {what}, MB"), "", number(report, path)? / 1e6);
    }
    for key in ["permits", "streams", "sequences", "kv_tokens"] {
        let what = format!("{} still held", key.replace('_', " "));
        figures.add(&what, "0", number(report, &format!("/held/{key}"))?);
    }
    let (kv, kept) = (number(report, "/after/kv")?, number(report, "/after/kept_prefixes")?);
    figures.add("keys and values held but not kept, bytes", "0", kv - kept);
    let goal = if keeps { "at most the limit" } else { "0" };
    figures.add("kept prefixes, MB", goal, kept / 1e6);
    figures.add("limit of keys and values, MB", "", number(report, "/after/kv_limit")? / 1e6);
    Ok(())
}
