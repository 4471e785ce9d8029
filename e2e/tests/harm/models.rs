//! Small models for the store, and its command line. Nothing can serve them.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::json;
use test_support::{TestEnv, binary, safetensors::raw_safetensors};

const COLUMNS: usize = 64;

/// A folder with one shard a matrix.
pub(crate) struct Model {
    pub(crate) matrices: Vec<Matrix>,
}

pub(crate) struct Matrix {
    pub(crate) name: &'static str,
    pub(crate) rows: usize,
    /// Row after row.
    pub(crate) values: Vec<f32>,
}

impl Model {
    /// Two matrices of a megabyte, the first with other values for each seed.
    pub(crate) fn new(seed: u32) -> Self {
        let matrix = |name, first: u32| {
            let rows = 4096;
            let values = (0..rows * COLUMNS).map(|i| (first * 31 + i as u32 % 1000) as f32 / 7.0).collect();
            Matrix { name, rows, values }
        };
        Self { matrices: vec![matrix("a.weight", seed), matrix("b.weight", seed)] }
    }

    /// Writes `model-1.safetensors` and so on.
    pub(crate) fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        let shard = |index: usize| format!("model-{}.safetensors", index + 1);
        let places = self.matrices.iter().enumerate();
        let places: BTreeMap<_, _> = places.map(|(index, matrix)| (matrix.name, shard(index))).collect();
        let files = [
            ("config.json", json!({ "model_type": "llama", "vocab_size": 3 })),
            ("tokenizer.json", json!({ "model": { "type": "BPE", "vocab": {}, "merges": [] } })),
            ("model.safetensors.index.json", json!({ "weight_map": places })),
        ];
        for (name, content) in files {
            fs::write(folder.join(name), content.to_string()).unwrap();
        }
        for (index, matrix) in self.matrices.iter().enumerate() {
            fs::write(folder.join(shard(index)), matrix.safetensors()).unwrap();
        }
    }
}

impl Matrix {
    fn safetensors(&self) -> Vec<u8> {
        let data = self.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        raw_safetensors(&[(self.name, "F32", vec![self.rows as u64, COLUMNS as u64], data)], 0)
    }
}

/// `cache-tool` with a store of its own.
pub(crate) fn cache_tool() -> TestEnv {
    TestEnv::new(binary("cache-tool"))
}

/// The names in the store, sorted.
pub(crate) fn names(tool: &TestEnv) -> Vec<String> {
    let listed = tool.json(&["list", "--json"]);
    let names = listed.as_array().unwrap().iter().flat_map(|artifact| artifact["names"].as_array().unwrap());
    let mut names: Vec<String> = names.map(|name| name.as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// Bytes of the blobs of all artifacts.
pub(crate) fn total(tool: &TestEnv) -> u64 {
    tool.json(&["usage", "--json"])["total"].as_u64().unwrap()
}
