//! The real all-MiniLM-L6-v2 against the values in `reference/minilm.json`, with its own tokenizer. `reference/minilm.py`
//! downloads the model.

use std::{ops::ControlFlow, path::PathBuf};

use artifact_store::{EmbeddingConfig, Pooling, Store};
use protocol::message::{EmbedInput, Prompt, Truncation};
use serde::Deserialize;
use worker::{
    engine::EosTokens,
    model::{EmbeddingModel, Kernels},
    prepare::{Preparer, PromptTokenizer, Settings},
};

use super::TURN;

/// Of numbers of vectors of length one.
const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Reference {
    models: Vec<Text>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    tokens: Vec<u32>,
    embedding: Vec<f64>,
}

#[test]
fn minilm_embeds_as_recorded() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = std::env::var_os("KR_TEST_MINILM")
        .expect("KR_TEST_MINILM names the model's folder; `cargo xtask test` sees to it");
    mlx_ext::init().unwrap();
    let store_folder = tempfile::tempdir().unwrap();
    let store = Store::open(store_folder.path()).unwrap();
    store.import(&PathBuf::from(folder), Some("minilm"), &mut |_| ControlFlow::Continue(())).unwrap();
    let artifact = store.resolve("minilm").unwrap();
    let config =
        EmbeddingConfig { pooling: Pooling::Mean, normalize: true, max_tokens: Some(256), dense: Vec::new() };
    assert_eq!(artifact.manifest.embedding, Some(config));
    let reference: Reference = serde_json::from_str(include_str!("../reference/minilm.json")).unwrap();

    for kernels in kernels() {
        let model = EmbeddingModel::load(&artifact, kernels).unwrap();
        let settings = Settings {
            template: None,
            eos_tokens: EosTokens::default(),
            context_length: model.max_tokens() as usize,
            kv_tokens: model.max_tokens() as usize,
            vocab_size: model.vocab_size(),
            special_tokens_in_content: false,
            embedding: Some(model.dimensions().clone()),
        };
        let tokenizer = PromptTokenizer::from_bytes(&artifact.read_tokenizer().unwrap()).unwrap();
        let inputs = reference.models.iter().map(|text| Prompt::Text(text.text.clone())).collect();
        let asked = EmbedInput { inputs, first: 0, truncate: Truncation::ToModel, dimensions: None };
        let prepared = Preparer::new(tokenizer, settings).embed(&asked).unwrap();
        let expected: Vec<_> = reference.models.iter().map(|text| text.tokens.clone()).collect();
        assert_eq!(prepared.inputs, expected);
        let inputs: Vec<&[u32]> = prepared.inputs.iter().map(Vec::as_slice).collect();
        let mut largest = 0.0_f64;
        for (found, Text { embedding, .. }) in model.embed(&inputs).unwrap().iter().zip(&reference.models) {
            assert_eq!(found.len(), embedding.len());
            let differences = found.iter().zip(embedding).map(|(a, b)| (f64::from(*a) - b).abs());
            largest = differences.fold(largest, f64::max);
        }
        assert!(largest < TOLERANCE, "{largest} on {kernels:?}");
    }
}

fn kernels() -> Vec<Kernels> {
    let own = cfg!(target_os = "linux").then_some(Kernels::Cpu);
    own.into_iter().chain([Kernels::Mlx]).collect()
}
