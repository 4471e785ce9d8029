//! The rows of a report of streams.

use anyhow::Result;
use serde_json::Value;

use crate::{bench::figures::Figures, load::number};

/// Tokens of all answers a second, as the server counts them.
pub(super) fn rate(report: &Value) -> Result<f64> {
    Ok(number(report, "/usage/answer")? / number(report, "/seconds")?)
}

/// What a report has in microseconds.
pub(super) fn seconds(report: &Value, path: &str) -> Result<f64> {
    Ok(number(report, path)? / 1e6)
}

/// The same in milliseconds.
pub(super) fn millis(report: &Value, path: &str) -> Result<f64> {
    Ok(number(report, path)? / 1e3)
}

/// Adds what the clients of `name` saw.
pub(super) fn add(
    figures: &mut Figures,
    name: &str,
    report: &Value,
    goal_of_gaps: &'static str,
) -> Result<()> {
    figures.add(&format!("{name}, tokens a second"), "", rate(report)?);
    for (which, path) in [("p50", "/first_token/p50"), ("p99", "/first_token/p99")] {
        figures.add(&format!("{name}, first token {which}, s"), "", seconds(report, path)?);
    }
    for (which, path, goal) in [("p50", "/gaps/p50", ""), ("p95", "/gaps/p95", goal_of_gaps)] {
        figures.add(&format!("{name}, between tokens {which}, ms"), goal, millis(report, path)?);
    }
    Ok(())
}
