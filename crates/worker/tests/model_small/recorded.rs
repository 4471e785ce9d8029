//! Small models of every architecture against mlx-lm's values in `reference/small`, one file each.

mod written;

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;
use serde_json::{Value, json};
use worker::model::{Kernels, KvBudget, Model};

pub(crate) use written::{packed, unpacked, values};

use super::{
    Loaded, load_within,
    on::{On, alone, on_every_backend},
    tiny::Float,
};

/// Two tokens whose logits are nearer than this are a near tie: which of them is greater says nothing.
const NEAR_TIE: f64 = 0.01;

/// What `reference/small.py` records of an architecture.
#[derive(Deserialize)]
struct File {
    models: Vec<Recorded>,
}

/// Of one model.
#[derive(Deserialize)]
pub(crate) struct Recorded {
    config: Value,
    /// Shapes by name.
    tensors: BTreeMap<String, Vec<usize>>,
    /// Names of matrices that are not quantized where others are.
    #[serde(default)]
    dense: Vec<String>,
    pub(crate) prompt: Vec<u32>,
    pub(crate) runs: Vec<Run>,
}

/// Of its weights in one form.
#[derive(Deserialize)]
pub(crate) struct Run {
    /// Of each weight, if they are quantized.
    pub(crate) bits: Option<i32>,
    /// How experts are packed, if in another way: MLX's name for it.
    pub(crate) experts: Option<String>,
    /// After how many tokens of the prompt and what greedy decoding goes on with, and the logits there.
    pub(crate) logits: Vec<(usize, Vec<f64>)>,
    /// The first token for which two experts are almost equally good: from there on a rounding may turn it to the other one.
    #[serde(default)]
    turns_at: Option<usize>,
    /// The tokens that follow the prompt, and how far the logit of the second most likely one is below.
    greedy: Vec<(u32, f64)>,
}

/// How a model's logits and tokens differ from those that are recorded.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Difference {
    /// The largest of a logit.
    pub(crate) logit: f64,
    /// The largest logit, without its sign.
    pub(crate) size: f64,
    /// Greedy tokens that are others, near ties left aside.
    pub(crate) tokens: usize,
    /// The same behind a token that a rounding may turn to other experts.
    pub(crate) turned_logit: f64,
    pub(crate) turned_tokens: usize,
}

/// Of each architecture, by its `model_type`.
pub(crate) fn all(folder: &Path) -> BTreeMap<String, Vec<Recorded>> {
    let read = |path: &Path| {
        let file: File = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), file.models)
    };
    fs::read_dir(folder).unwrap().map(|entry| read(&entry.unwrap().path())).collect()
}

pub(crate) fn committed() -> BTreeMap<String, Vec<Recorded>> {
    all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/small"))
}

impl Recorded {
    /// The model with weights in the form of a run, floats stored as `float`.
    pub(crate) fn load(&self, run: &Run, on: On) -> Loaded {
        self.load_within(run, on, super::BUDGET)
    }

    /// The same with another budget.
    pub(crate) fn load_within(&self, run: &Run, on: On, budget: KvBudget) -> Loaded {
        load_within(|folder| self.write(folder, Some(run), on.float.unwrap_or(Float::F32)), on, budget)
    }

    /// The same with sequences of so many tokens.
    pub(crate) fn with_context(mut self, len: usize) -> Self {
        let config = if self.config.get("text_config").is_some() {
            &mut self.config["text_config"]
        } else {
            &mut self.config
        };
        config["max_position_embeddings"] = len.into();
        self
    }

    /// Of a tensor.
    pub(crate) fn shape(&self, name: &str) -> &[usize] {
        &self.tensors[name]
    }

    fn has_experts(&self) -> bool {
        self.mentions("num_experts_per_tok") || self.mentions("top_k_experts")
    }

    /// Whether layers keep states.
    fn keeps_states(&self) -> bool {
        self.mentions("conv_L_cache") || self.mentions("linear_num_key_heads")
    }

    /// Whether attention's scores are not divided by the root of the heads' size.
    fn scores_are_not_scaled(&self) -> bool {
        self.mentions("global_head_dim")
    }

    fn mentions(&self, setting: &str) -> bool {
        self.config.get("text_config").unwrap_or(&self.config).get(setting).is_some()
    }

    /// In one piece and in pieces, then token by token.
    pub(crate) fn compare(&self, run: &Run, on: On) -> Difference {
        let loaded = self.load(run, on);
        let model = &loaded.model;
        let mut difference = Difference::default();
        for (after, expected) in run.logits.iter().filter(|(after, _)| *after <= self.prompt.len()) {
            let found = alone(model, &mut model.new_kv(), &self.prompt[..*after]);
            difference.add(&found, expected, run.may_turn(*after));
        }
        let mut kv = model.new_kv();
        let mut found = Vec::new();
        // The boundaries of pieces lie on both sides of those of blocks and windows.
        for end in [1, 30, 33, 64, 100, 101, self.prompt.len()] {
            let piece = &self.prompt[kv.len()..end];
            found = alone(model, &mut kv, piece);
            difference.add_at(end, &found, run);
        }
        for (token, gap) in &run.greedy {
            let likely = (0..found.len()).max_by(|a, b| found[*a].total_cmp(&found[*b])).unwrap();
            let is_other = usize::from(*gap > NEAR_TIE && likely != *token as usize);
            if run.may_turn(kv.len()) {
                difference.turned_tokens += is_other;
            } else {
                difference.tokens += is_other;
            }
            found = alone(model, &mut kv, &[*token]);
            difference.add_at(kv.len(), &found, run);
        }
        difference
    }
}

impl Run {
    /// Whether what comes after so many tokens depends on one that a rounding may turn to other experts.
    fn may_turn(&self, after: usize) -> bool {
        self.turns_at.is_some_and(|token| after > token)
    }
}

impl Difference {
    pub(crate) fn add(&mut self, found: &[f32], expected: &[f64], may_turn: bool) {
        let place = if may_turn { &mut self.turned_logit } else { &mut self.logit };
        *place = place.max(super::largest_difference(found, expected));
        self.size = expected.iter().fold(self.size, |size, logit| size.max(logit.abs()));
    }

    fn add_at(&mut self, after: usize, found: &[f32], run: &Run) {
        for (_, expected) in run.logits.iter().filter(|(at, _)| *at == after) {
            self.add(found, expected, run.may_turn(after));
        }
    }

    /// The more severe of both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            logit: self.logit.max(other.logit),
            size: self.size.max(other.size),
            tokens: self.tokens + other.tokens,
            turned_logit: self.turned_logit.max(other.turned_logit),
            turned_tokens: self.turned_tokens + other.turned_tokens,
        }
    }

    /// That of all tokens alike.
    pub(crate) fn of_all(self) -> Self {
        Self {
            logit: self.logit.max(self.turned_logit),
            tokens: self.tokens + self.turned_tokens,
            turned_logit: 0.0,
            turned_tokens: 0,
            ..self
        }
    }
}

/// How a backend computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Float32,
    /// Activations that meet quantized weights are rounded to 16 bits.
    Rounded,
    /// The same, and it grows: states sum up what comes of it, or scores that are not scaled make much of it.
    RoundedSteeply,
    /// To 8 bits.
    Bytes,
    /// Results of operations are rounded to 16 bits.
    Half,
}

impl Arithmetic {
    pub(crate) fn of(on: On, model: &Recorded, run: &Run) -> Self {
        match (on.kernels, on.float) {
            (Kernels::Mlx, Some(Float::F16 | Float::Bf16)) => Self::Half,
            (Kernels::CpuInt8, _) if run.bits == Some(4) || run.experts.is_some() => Self::Bytes,
            (Kernels::Cpu | Kernels::CpuInt8, _) if run.bits.is_some() => {
                if model.keeps_states() || model.scores_are_not_scaled() {
                    Self::RoundedSteeply
                } else {
                    Self::Rounded
                }
            }
            _ => Self::Float32,
        }
    }

    /// Whether activations are rounded to 16 bits.
    pub(crate) fn is_rounded(self) -> bool {
        matches!(self, Self::Rounded | Self::RoundedSteeply)
    }

    /// Whether a model is computed as mlx-lm does it: each logit within a thousandth (itself, or its part of the largest
    /// one), and the same tokens. What was found is half of each limit or less. With rounded activations that holds up to the
    /// first token that a rounding may turn to other experts.
    pub(crate) fn allows(self, found: Difference) -> bool {
        let turned = found.turned_logit / found.size;
        let found = if self.is_rounded() { found } else { found.of_all() };
        let part = found.logit / found.size;
        match self {
            Self::Float32 => found.logit < 1e-3 && found.tokens == 0,
            // Another expert changes a logit by less than a rounding to 8 bits does.
            Self::Rounded => part < 1e-3 && found.tokens == 0 && turned < 0.3,
            Self::RoundedSteeply => part < 3e-3 && found.tokens == 0 && turned < 0.3,
            Self::Bytes => part < 0.3,
            Self::Half => part < 0.15,
        }
    }
}

fn agrees_with_mlx_lm(on: On) {
    let recorded = committed();
    for model_type in Model::architectures() {
        let models = recorded.get(model_type).unwrap_or_else(|| {
            panic!("no reference for `{model_type}`; record one with crates/worker/tests/reference/small.py")
        });
        // What only makes types or forms of weights different is tried with one.
        let count = if on.tries_everything() { models.len() } else { 1 };
        for (index, model) in models.iter().enumerate().take(count) {
            // Half precision rounds scales, too: quantized weights would be others.
            let exact = !matches!(on.float, Some(Float::F16 | Float::Bf16));
            for run in model.runs.iter().filter(|run| run.bits.is_none() || exact) {
                let found = model.compare(run, on);
                let arithmetic = Arithmetic::of(on, model, run);
                // A rounding can turn a token to other experts, and then nothing is near.
                let is_coarse = matches!(arithmetic, Arithmetic::Half | Arithmetic::Bytes);
                let may_turn = is_coarse && model.has_experts();
                let allowed = arithmetic.allows(found) || (may_turn && found.of_all().logit.is_finite());
                assert!(allowed, "model {index} of `{model_type}`, {:?} bits: {found:?} on {on:?}", run.bits);
            }
        }
    }
}

/// What an architecture's own settings may not be; of a model that stands in `text_config`, there.
#[test]
fn settings_that_would_change_the_answers_are_refused_by_name() {
    let recorded = committed();
    let on = super::on::MLX_FLOAT32;
    for (model_type, setting, value) in [
        ("cohere", "use_qk_norm", json!(true)),
        ("deepseek", "norm_topk_prob", json!(true)),
        ("deepseek_v2", "norm_topk_prob", json!(true)),
        ("deepseek_v2", "topk_method", json!("noaux_tc")),
        ("deepseek_v3", "kv_lora_rank", json!(1020)),
        ("deepseek_v3", "n_group", json!(3)),
        ("deepseek_v3", "scoring_func", json!("softmax")),
        ("gemma2", "hidden_activation", json!("gelu")),
        ("gemma2", "layer_types", json!(["full_attention"])),
        ("gemma3_text", "final_logit_softcapping", json!(30.0)),
        ("gemma3_text", "use_bidirectional_attention", json!(true)),
        ("gemma4_text", "attention_k_eq_v", json!("both")),
        ("gemma4_text", "global_head_dim", json!(33)),
        ("gemma4_text", "layer_types", json!(vec!["sliding_attention"; 4])),
        ("gemma4_text", "num_kv_shared_layers", json!(4)),
        ("gemma4_text", "num_kv_shared_layers", json!(3)),
        ("gemma4_text", "per_layer_config", json!({ "2": { "head_dim": 64 } })),
        ("gemma4_text", "use_bidirectional_attention", json!("all")),
        ("gemma4_text", "vocab_size_per_layer_input", json!(100)),
        ("glm4", "partial_rotary_factor", json!(0.05)),
        ("glm4_moe", "topk_method", json!("greedy")),
        ("gpt_oss", "layer_types", json!(["chunked_attention", "full_attention"])),
        ("gpt_oss", "num_local_experts", json!(0)),
        ("gpt_oss", "swiglu_limit", json!(5.0)),
        ("granite", "logit_scale", json!(2.0)),
        ("llama", "sliding_window", json!(64)),
        ("ministral3", "attn_logit_softcapping", json!(50.0)),
        ("mistral", "partial_rotary_factor", json!(0.5)),
        ("mixtral", "num_experts_per_tok", json!(99)),
        ("olmo2", "clip_qkv", json!(8.0)),
        ("olmoe", "mlp_bias", json!(true)),
        ("phi3", "rope_scaling", json!({ "type": "longrope", "long_factor": [1.0] })),
        ("qwen2", "hidden_act", json!("relu")),
        ("qwen3_moe", "mlp_only_layers", json!([99])),
        ("smollm3", "no_rope_layers", json!([1, 0])),
    ] {
        let model = &recorded[model_type][0];
        let (mut artifact, _folder) = super::import_written(|folder| model.write(folder, None, Float::F32));
        artifact.manifest.config[setting] = value;
        let error = Model::load(&artifact, on.kernels, super::BUDGET).err().unwrap().to_string();
        assert!(error.contains(&format!("`{setting}")), "{model_type}: {error}");
    }
}

/// What layers with experts would leave out.
#[test]
fn experts_with_biases_are_refused() {
    let recorded = committed();
    for model_type in ["mixtral", "qwen3_moe", "deepseek_v3"] {
        let model = &recorded[model_type][0];
        let (mut artifact, _folder) = super::import_written(|folder| model.write(folder, None, Float::F32));
        artifact.manifest.config["mlp_bias"] = json!(true);
        let error = Model::load(&artifact, super::on::MLX_FLOAT32.kernels, super::BUDGET).err().unwrap();
        assert!(error.to_string().contains("experts with biases"), "{model_type}: {error}");
    }
}

#[test]
fn every_reference_is_of_an_architecture() {
    for (name, models) in committed() {
        assert!(models.iter().all(|model| model.config["model_type"] == name.as_str()));
        assert!(Model::architectures().any(|model_type| model_type == name), "{name}");
    }
}

/// The same bits in one piece, in pieces, and beside another sequence, where that is promised.
fn other_rows_change_no_bit(on: On) {
    for (model_type, models) in committed() {
        for model in &models {
            let Loaded { model: loaded, .. } = &model.load(&model.runs[1], on);
            if !loaded.is_invariant() {
                continue;
            }
            let whole = alone(loaded, &mut loaded.new_kv(), &model.prompt);
            let (mut kv, mut other) = (loaded.new_kv(), loaded.new_kv());
            let mut found = Vec::new();
            for end in [29, 31, 32, 90, model.prompt.len()] {
                let piece = &model.prompt[kv.len()..end];
                let rows = vec![(&mut other, &model.prompt[..end % 7 + 1]), (&mut kv, piece)];
                found = super::forward(loaded, rows).remove(1);
            }
            let differs = found.iter().zip(&whole).position(|(f, w)| f.to_bits() != w.to_bits());
            assert_eq!(differs, None, "a logit of `{model_type}`: {on:?}");
        }
    }
}

on_every_backend![agrees_with_mlx_lm, other_rows_change_no_bit];
