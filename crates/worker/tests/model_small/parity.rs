//! Models that `cargo xtask parity` has just made, on every backend that computes in float32: a table for people.

use std::{env, path::Path};

use super::{
    on::{MLX_FLOAT32, On},
    recorded::{self, Arithmetic, Difference, Run},
};

/// Names the folder that `reference/small.py` has written to.
const VARIABLE: &str = "KR_PARITY";

#[cfg(target_os = "linux")]
const BACKENDS: [(&str, On); 2] = [("cpu", super::on::CPU), ("mlx", MLX_FLOAT32)];
#[cfg(not(target_os = "linux"))]
const BACKENDS: [(&str, On); 1] = [("mlx", MLX_FLOAT32)];

/// Without a folder, of one of those that are recorded.
#[test]
#[allow(clippy::print_stdout)]
fn table() {
    let models = match env::var_os(VARIABLE) {
        Some(folder) => recorded::all(Path::new(&folder)),
        None => recorded::committed().into_iter().filter(|(model_type, _)| model_type == "llama").collect(),
    };
    println!(
        "{:<16} {:>8} {:<8} {:>12} {:>10}  tokens",
        "architecture", "bits", "backend", "difference", "of logits"
    );
    let mut wrong = Vec::new();
    for (model_type, models) in models {
        for (bits, experts) in [(None, None), (Some(4), None), (Some(8), None), (Some(8), Some("mxfp4"))] {
            let is_one = |run: &&Run| run.bits == bits && run.experts.as_deref() == experts;
            let runs = || {
                models.iter().flat_map(|model| model.runs.iter().filter(is_one).map(move |run| (model, run)))
            };
            for (backend, on) in BACKENDS.into_iter().filter(|_| runs().next().is_some()) {
                let mut all = Difference::default();
                for (model, run) in runs() {
                    let (found, arithmetic) = (model.compare(run, on), Arithmetic::of(on, model, run));
                    let found = if arithmetic.is_rounded() { found } else { found.of_all() };
                    all = all.and(found);
                    if !arithmetic.allows(found) {
                        wrong.push(format!("{model_type}, {bits:?} bits, {backend}: {found:?}"));
                    }
                }
                let bits = bits.map_or("dense".to_owned(), |bits| bits.to_string());
                let bits = experts.map_or(bits.clone(), |experts| format!("{bits}, {experts}"));
                let tokens =
                    if all.tokens == 0 { "equal".to_owned() } else { format!("{} differ", all.tokens) };
                let turned = if all.turned_logit > all.logit {
                    format!(", {:.1e} where experts are almost equally good", all.turned_logit)
                } else {
                    String::new()
                };
                println!(
                    "{model_type:<16} {bits:>8} {backend:<8} {:>12.1e} {:>10.1}  {tokens}{turned}",
                    all.logit, all.size
                );
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
