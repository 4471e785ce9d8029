//! Where the time of our engine's steps goes.

use anyhow::{Context, Result, ensure};

use super::{peers::Asked, table};

/// In the order in which the measuring process gives them.
const STAGES: [&str; 5] = ["schedule", "build", "evaluate", "sample", "emit"];

/// Has whole engines decode in each of the batches, and prints what part of their steps each stage takes.
pub(super) fn print(ours: &mut Asked, batches: &[usize], context: usize, steps: usize) -> Result<()> {
    let mut header = vec!["part of a step, %"];
    header.extend(STAGES);
    let mut table = table(&header);
    for batch in batches {
        let seconds = ours.ask(&format!("stages {batch} {context} {steps}"))?;
        let shares = percentages(&seconds).with_context(|| format!("batch {batch}"))?;
        let shares = shares.iter().map(|share| format!("{share:.1}"));
        table.add_row([format!("decode, batch {batch}")].into_iter().chain(shares));
    }
    println!(
        "\n{table}\n\nOf a whole engine, which also chooses tokens and makes text of them; measured once."
    );
    Ok(())
}

fn percentages(seconds: &[f64]) -> Result<[f64; STAGES.len()]> {
    let seconds: [f64; STAGES.len()] =
        seconds.try_into().with_context(|| format!("{} stages were measured", seconds.len()))?;
    let total: f64 = seconds.iter().sum();
    ensure!(total > 0.0, "no time was measured");
    Ok(seconds.map(|seconds| seconds * 100.0 / total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_all_stages_together() -> Result<()> {
        assert_eq!(percentages(&[1.0, 0.0, 2.0, 1.0, 0.0])?, [25.0, 0.0, 50.0, 25.0, 0.0]);
        assert!(percentages(&[1.0; 4]).is_err() && percentages(&[0.0; 5]).is_err());
        Ok(())
    }
}
