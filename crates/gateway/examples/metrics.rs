//! Prints docs/metrics.md: every metric of the gateway, as `/metrics` names it.

#![allow(clippy::print_stdout)] // the document is the output

use gateway::{assembly::Metrics, metrics::MetricRegistry};

fn main() {
    let mut registry = MetricRegistry::new();
    Metrics::register(&mut registry);
    println!("# Metrics\n");
    println!("Written by `cargo xtask docs` from what the gateway registers. `/metrics` shows these in the");
    println!("OpenMetrics text format.\n");
    println!("| name | type | meaning |\n| --- | --- | --- |");
    let mut metrics = registry.catalogue().to_vec();
    metrics.sort_unstable_by_key(|metric| metric.name);
    for metric in metrics {
        println!("| `{}` | {} | {} |", metric.public_name(), metric.kind, metric.help);
    }
}
