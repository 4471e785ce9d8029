//! Prints docs/metrics.md: every metric of the gateway, as `/metrics` names it.

#![allow(clippy::print_stdout)] // the document is the output

use std::{collections::BTreeMap, fmt, sync::Arc};

use gateway::{
    metrics::Metrics,
    worker::{WorkerId, WorkerState},
};

/// A metric, as its descriptor says.
#[derive(Default)]
struct Row {
    kind: String,
    help: String,
}

fn main() -> Result<(), fmt::Error> {
    let metrics = Metrics::default();
    // A metric with labels is shown only when it has a value.
    let worker = WorkerId { model: Arc::from("model"), number: 0 };
    metrics.count_request("route", 200);
    metrics.count_rejection("reason");
    metrics.count_verification("model", true);
    metrics.count_restart(&worker);
    metrics.set_worker_state(&worker, WorkerState::Ready);
    let _link = metrics.link(&worker);

    println!("# Metrics\n");
    println!("Written by `cargo xtask docs` from what the gateway registers. `/metrics` shows these in the");
    println!("OpenMetrics text format.\n");
    println!("| name | type | meaning |\n| --- | --- | --- |");
    for (name, row) in rows(&metrics.render()?) {
        println!("| `{name}` | {} | {} |", row.kind, row.help);
    }
    Ok(())
}

/// Metrics by the names that samples have.
fn rows(text: &str) -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::<&str, Row>::new();
    for line in text.lines() {
        let mut words = line.splitn(4, ' ').skip(1);
        let (Some(what), Some(name), Some(value)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        match what {
            "HELP" => rows.entry(name).or_default().help = value.trim_end_matches('.').to_owned(),
            "TYPE" => rows.entry(name).or_default().kind = value.to_owned(),
            _ => {}
        }
    }
    let sample = |(name, row): (&str, Row)| {
        let suffix = if row.kind == "counter" { "_total" } else { "" };
        (format!("{name}{suffix}"), row)
    };
    rows.into_iter().map(sample).collect()
}
