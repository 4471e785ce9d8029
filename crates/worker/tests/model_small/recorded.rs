//! Small models of every architecture against mlx-lm's values in `reference/small`, one file each.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;
use serde_json::Value;
use worker::model::Model;

use super::{
    load_folder,
    on::{On, alone, on_every_backend},
    tiny::{Float, Spec, SplitMix, Tensor, write_folder},
};

/// What `reference/small.py` records.
#[derive(Deserialize)]
struct Recorded {
    config: Value,
    /// Shapes by name.
    tensors: BTreeMap<String, Vec<usize>>,
    tokens: Vec<u32>,
    /// After how many of the tokens, and the logits there.
    logits: Vec<(usize, Vec<f64>)>,
}

impl Recorded {
    /// Of each architecture, by its `model_type`.
    fn all() -> BTreeMap<String, Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/small");
        let read = |path: &Path| {
            let recorded: Self = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), recorded)
        };
        fs::read_dir(folder).unwrap().map(|entry| read(&entry.unwrap().path())).collect()
    }

    fn write(&self, folder: &Path, float: Float) {
        let tensors = self
            .tensors
            .iter()
            .map(|(name, shape)| (name.clone(), float.tensor(shape.clone(), &values(name, shape))));
        let tensors: BTreeMap<String, Tensor> = tensors.collect();
        write_folder(folder, &self.config, self.config["vocab_size"].as_u64().unwrap() as usize, &tensors, 0);
    }
}

/// The same as in `small.py`: they follow from the name, and are exact in every float type.
fn values(name: &str, shape: &[usize]) -> Vec<f64> {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut random = SplitMix(hash);
    let (low, high) = match shape {
        [_] if name.ends_with("norm.weight") => (0.5, 1.5),
        _ => (-0.25, 0.25),
    };
    let count = shape.iter().product();
    (0..count).map(|_| low + (high - low) * (random.next() >> 57) as f64 / 128.0).collect()
}

/// In one piece, and in pieces down to single tokens.
fn agrees_with_mlx_lm(on: On) {
    let recorded = Recorded::all();
    for model_type in Model::architectures() {
        let recorded = recorded.get(model_type).unwrap_or_else(|| {
            panic!("no reference for `{model_type}`; record one with crates/worker/tests/reference/small.py")
        });
        let float = on.float.unwrap_or(Float::F32);
        let spec = on.spec(Spec { dense: float, ..Spec::default() });
        let loaded = load_folder(|folder| recorded.write(folder, float), on);
        let mut kv = loaded.model.new_kv();
        for (after, expected) in &recorded.logits {
            let tokens = &recorded.tokens[..*after];
            on.agrees(&spec, &alone(&loaded.model, &mut loaded.model.new_kv(), tokens), expected);
            let rest = &tokens[kv.len()..];
            on.agrees(&spec, &alone(&loaded.model, &mut kv, rest), expected);
        }
    }
}

#[test]
fn every_reference_is_of_an_architecture() {
    for (name, recorded) in Recorded::all() {
        assert_eq!(recorded.config["model_type"], name.as_str());
        assert!(Model::architectures().any(|model_type| model_type == name), "{name}");
    }
}

on_every_backend![agrees_with_mlx_lm];
