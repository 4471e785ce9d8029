//! Small random models on every backend against plain float64 arithmetic, and what a step promises.
//!
//! `cargo test -p worker --test model_small mlx_bfloat16` runs what runs on one backend.

#![allow(clippy::unwrap_used)]

mod adapted_hybrids;
mod adapters;
mod agreement;
mod ahead;
mod batches;
mod drafts;
mod encoders;
mod faults;
mod forks;
mod forms;
mod hybrid;
mod invariance;
mod leaks;
mod listing;
mod mixed_heads;
mod on;
mod packed;
mod parity;
mod prefixes;
mod recorded;
mod refusals;
mod served;
mod steps;
mod tiny;
mod windows;

use std::{ops::ControlFlow, path::Path};

use artifact_store::{Artifact, Store};
use on::On;
use tempfile::TempDir;
use tiny::Tiny;
use worker::model::{KvBudget, KvDtype, Model, ModelError, SequenceKv, StepInput, StepRow};

/// A model in a store of its own.
struct Loaded {
    model: Model,
    _artifact: Artifact,
    _folder: TempDir,
}

/// Room for every test here. Windows keep no more than they reach.
const BUDGET: KvBudget =
    KvBudget { bytes: 64 << 20, sequences: 16, dtype: KvDtype::Float32, step_tokens: Some(64) };

fn import(tiny: &Tiny) -> (Artifact, TempDir) {
    import_written(|folder| tiny.write(folder))
}

/// Imports what `write` puts into a folder.
fn import_written(write: impl FnOnce(&Path)) -> (Artifact, TempDir) {
    mlx_ext::init().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    write(&source);
    (import_folder(&folder.path().join("store"), &source), folder)
}

fn import_folder(store: &Path, source: &Path) -> Artifact {
    let store = Store::open(store).unwrap();
    store.import(source, Some("tiny"), &mut |_| ControlFlow::Continue(())).unwrap();
    store.resolve("tiny").unwrap()
}

fn load(tiny: &Tiny, on: On) -> Loaded {
    load_folder(|folder| tiny.write(folder), on)
}

fn load_folder(write: impl FnOnce(&Path), on: On) -> Loaded {
    load_within(write, on, BUDGET)
}

fn load_within(write: impl FnOnce(&Path), on: On, budget: KvBudget) -> Loaded {
    let (artifact, folder) = import_written(write);
    let model = Model::load(&artifact, on.kernels, budget).unwrap();
    Loaded { model, _artifact: artifact, _folder: folder }
}

fn load_error(tiny: &Tiny, on: On) -> ModelError {
    let (artifact, _folder) = import(tiny);
    Model::load(&artifact, on.kernels, BUDGET).err().unwrap()
}

/// One step; logits after each row's last token.
fn forward(model: &Model, rows: Vec<(&mut SequenceKv, &[u32])>) -> Vec<Vec<f32>> {
    let rows = rows.into_iter().map(|(kv, tokens)| StepRow::last_logits(tokens, kv));
    let logits = model.forward(&mut StepInput { rows: rows.collect() }).unwrap().unwrap();
    (0..logits.rows()).map(|row| logits.row(row).to_vec()).collect()
}

fn largest_difference(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference = |(f, e): (&f32, &f64)| (f64::from(*f) - e).abs();
    found.iter().zip(expected).map(difference).fold(0.0, |worst: f64, difference| {
        if difference.is_nan() { f64::INFINITY } else { worst.max(difference) }
    })
}
