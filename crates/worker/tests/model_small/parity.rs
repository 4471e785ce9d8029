//! Models that `cargo xtask parity` has just made, on every backend that computes in float32: a table for people.

use std::{env, path::Path};

use super::{
    on::{MLX_FLOAT32, On},
    recorded::{self, Arithmetic, Difference},
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
        "{:<14} {:>5} {:<8} {:>12} {:>10}  tokens",
        "architecture", "bits", "backend", "difference", "of logits"
    );
    let mut wrong = Vec::new();
    for (model_type, models) in models {
        for bits in [None, Some(4), Some(8)] {
            for (backend, on) in BACKENDS {
                let mut all = Difference::default();
                for (model, run) in
                    models.iter().flat_map(|model| model.runs.iter().map(move |run| (model, run)))
                {
                    if run.bits == bits {
                        let found = model.compare(run, on);
                        all = all.and(found);
                        if !Arithmetic::of(on, model, run).allows(found) {
                            wrong.push(format!("{model_type}, {bits:?} bits, {backend}: {found:?}"));
                        }
                    }
                }
                let bits = bits.map_or("dense".to_owned(), |bits| bits.to_string());
                let tokens =
                    if all.tokens == 0 { "equal".to_owned() } else { format!("{} differ", all.tokens) };
                println!(
                    "{model_type:<14} {bits:>5} {backend:<8} {:>12.1e} {:>10.1}  {tokens}",
                    all.logit, all.size
                );
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
