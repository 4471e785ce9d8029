//! Adapters: against mlx-lm's values, against merged weights, and several within one step.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use artifact_store::{Artifact, Store};
use protocol::message::{AdapterRef, Failure, FailureKind};
use serde::Deserialize;
use serde_json::{Value, json};
use worker::{
    adapters::Adapters,
    model::{Adapter, AdapterError, Model, SequenceKv, StepInput, StepRow},
};

use super::{
    Loaded, load_folder,
    on::{MLX_FLOAT32, On, on_every_backend},
    recorded::{Arithmetic, Difference, Recorded, Run, committed, values},
    tiny::{Float, Spec},
};

/// What `reference/adapters.py` has recorded.
#[derive(Deserialize)]
struct File {
    adapters: Vec<RecordedAdapter>,
}

/// Of one adapter.
#[derive(Deserialize)]
pub(crate) struct RecordedAdapter {
    model_type: String,
    label: String,
    config: Value,
    /// Shapes by name.
    tensors: BTreeMap<String, Vec<usize>>,
    runs: Vec<Run>,
}

/// A model and its adapters.
pub(crate) struct Base {
    pub(crate) loaded: Loaded,
    store: Store,
    artifact: Artifact,
}

fn recorded(model_type: &str) -> Vec<RecordedAdapter> {
    all().into_iter().filter(|adapter| adapter.model_type == model_type).collect()
}

fn all() -> Vec<RecordedAdapter> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/adapters.json");
    let file: File = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    file.adapters
}

fn model(model_type: &str) -> Recorded {
    committed().remove(model_type).unwrap().remove(0)
}

impl RecordedAdapter {
    /// One that was not recorded: of these modules of `model`.
    pub(crate) fn of(model_type: &str, model: &Recorded, label: &str, modules: &[&str]) -> Self {
        const RANK: usize = 3;
        let parameters = json!({"rank": RANK, "scale": 4.0, "dropout": 0.0});
        let tensors = modules.iter().flat_map(|module| {
            let [outputs, inputs] = *model.shape(&format!("{module}.weight")) else { panic!("{module}") };
            [
                (format!("{module}.lora_a"), vec![inputs, RANK]),
                (format!("{module}.lora_b"), vec![RANK, outputs]),
            ]
        });
        Self {
            model_type: model_type.to_owned(),
            label: label.to_owned(),
            config: json!({"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": parameters}),
            tensors: tensors.collect(),
            runs: Vec::new(),
        }
    }

    fn values(&self, name: &str) -> Vec<f64> {
        values(&format!("{} {name}", self.label), &self.tensors[name])
    }

    /// As mlx-lm writes it.
    fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("adapter_config.json"), self.config.to_string()).unwrap();
        let tensors: Vec<_> = self.tensors.keys().map(|name| (name, self.values(name))).collect();
        let tensors: Vec<_> = tensors
            .iter()
            .map(|(name, values)| {
                let shape = self.tensors[*name].iter().map(|&dim| dim as u64).collect();
                let bytes = values.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect();
                (name.as_str(), "F32", shape, bytes)
            })
            .collect();
        let bytes = test_support::safetensors::raw_safetensors(&tensors, 0);
        fs::write(folder.join("adapters.safetensors"), bytes).unwrap();
    }

    fn rank(&self) -> usize {
        self.config["lora_parameters"]["rank"].as_u64().unwrap() as usize
    }

    /// Adds what it adds to a matrix, `[outputs, inputs]`.
    pub(crate) fn merge(&self, name: &str, matrix: &mut [f64]) {
        let Some(module) = name.strip_suffix(".weight") else { return };
        let [a, b] = ["lora_a", "lora_b"].map(|part| format!("{module}.{part}"));
        let Some(shape) = self.tensors.get(&a) else { return };
        let (inputs, rank, scale) = (shape[0], self.rank(), self.config["lora_parameters"]["scale"].as_f64());
        let (a, b) = (self.values(&a), self.values(&b));
        let outputs = matrix.len() / inputs;
        for output in 0..outputs {
            for input in 0..inputs {
                let products = (0..rank).map(|at| a[input * rank + at] * b[at * outputs + output]);
                matrix[output * inputs + input] += scale.unwrap() * products.sum::<f64>();
            }
        }
    }
}

impl Base {
    pub(crate) fn new(model: &Recorded, run: &Run, on: On) -> Self {
        let loaded = model.load(run, on);
        let store = Store::open(loaded._folder.path().join("store")).unwrap();
        let artifact = store.resolve("tiny").unwrap();
        Self { loaded, store, artifact }
    }

    fn import(&self, adapter: &RecordedAdapter) -> Artifact {
        let folder = self.loaded._folder.path().join(&adapter.label);
        adapter.write(&folder);
        let silent = &mut |_| std::ops::ControlFlow::Continue(());
        let name = self.store.import_adapter(&folder, "tiny", None, silent).unwrap().name;
        self.store.resolve(&name).unwrap()
    }

    pub(crate) fn load(&self, adapter: &RecordedAdapter) -> Arc<Adapter> {
        let artifact = self.import(adapter);
        let adaptable = self.loaded.model.adaptable();
        Arc::new(adaptable.load(artifact, self.artifact.digest, u64::MAX).unwrap())
    }
}

/// A sequence's new tokens, and its adapter.
type Row<'a> = (&'a mut SequenceKv, &'a [u32], Option<&'a Arc<Adapter>>);

/// One step; logits after each row's last token.
fn step(model: &Model, rows: Vec<Row<'_>>) -> Vec<Vec<f32>> {
    let row = |(kv, tokens, adapter)| StepRow::last_logits(tokens, kv).with_adapter(adapter);
    let mut input = StepInput { rows: rows.into_iter().map(row).collect() };
    let logits = model.forward(&mut input).unwrap().unwrap();
    (0..logits.rows()).map(|row| logits.row(row).to_vec()).collect()
}

pub(crate) fn alone(model: &Model, tokens: &[u32], adapter: Option<&Arc<Adapter>>) -> Vec<f32> {
    step(model, vec![(&mut model.new_kv(), tokens, adapter)]).remove(0)
}

fn agrees_with_mlx_lm(on: On) {
    for adapter in all() {
        let model = model(&adapter.model_type);
        let exact = !matches!(on.float, Some(Float::F16 | Float::Bf16));
        for run in adapter.runs.iter().filter(|run| run.bits.is_none() || exact) {
            let base = Base::new(&model, run, on);
            let loaded = base.load(&adapter);
            let (model, mut found, mut changed) = (&model, Difference::default(), 0.0_f64);
            for (after, expected) in &run.logits {
                let tokens = &model.prompt[..*after];
                found.add(&alone(&base.loaded.model, tokens, Some(&loaded)), expected, false);
                let plain = alone(&base.loaded.model, tokens, None);
                changed = changed.max(super::largest_difference(&plain, expected));
            }
            let (name, label) = (&adapter.model_type, &adapter.label);
            assert!(changed > 0.05, "{label} of {name} changes nothing: {changed}");
            // A rounding can turn a token to other experts, and then nothing is near.
            let may_turn = Arithmetic::of(on, model, run) == Arithmetic::Half && name == "mixtral";
            let allowed =
                Arithmetic::of(on, model, run).allows(found) || (may_turn && found.logit.is_finite());
            assert!(allowed, "{label} of {name}, {:?} bits: {found:?} on {on:?}", run.bits);
        }
    }
}

/// Two adapters and the base in one step, in pieces, beside each other in any order.
fn rows_of_a_step_do_not_depend_on_each_other(on: On) {
    for model_type in ["llama", "phi3", "gemma2", "cohere", "mixtral"] {
        let recorded_model = model(model_type);
        let run = &recorded_model.runs[if on.tries_everything() { 1 } else { 0 }];
        let base = Base::new(&recorded_model, run, on);
        let (model, prompt) = (&base.loaded.model, &recorded_model.prompt[..]);
        let adapters: Vec<_> = recorded(model_type).iter().map(|adapter| base.load(adapter)).collect();
        let choices = [None, Some(&adapters[0]), Some(&adapters[1]), Some(&adapters[0])];
        let whole = choices.map(|adapter| alone(model, prompt, adapter));
        assert!(whole[0] != whole[1] && whole[1] != whole[2]);
        let mut kvs = choices.map(|_| model.new_kv());
        let mut found = Vec::new();
        for end in [7, 40, 100, prompt.len() - 1, prompt.len()] {
            let rows = kvs.iter_mut().zip(choices).map(|(kv, adapter)| {
                let tokens = &prompt[kv.len()..end];
                (kv, tokens, adapter)
            });
            found = step(model, rows.collect());
        }
        for (found, expected) in found.iter().zip(&whole) {
            if on.is_exact() && model.is_invariant() {
                let differs = found.iter().zip(expected).position(|(f, e)| f.to_bits() != e.to_bits());
                assert_eq!(differs, None, "a logit of `{model_type}` on {on:?}");
            } else if model_type != "mixtral" {
                on.same(
                    &Spec { quantization: run.bits.map(|_| (32, 4)), ..on.spec(Spec::default()) },
                    found,
                    expected,
                );
            }
        }
        // What the base computes is what it computed before there was an adapter.
        let again = Base::new(&recorded_model, run, on);
        on.same(&on.spec(Spec::default()), &whole[0], &alone(&again.loaded.model, prompt, None));
    }
}

/// The same as a model whose matrices have the adapter's product added.
fn agrees_with_merged_weights(on: On) {
    if on.float.is_some_and(|float| float != Float::F32) {
        return;
    }
    let model = model("llama");
    for adapter in recorded("llama") {
        let base = Base::new(&model, &model.runs[0], on);
        let loaded = base.load(&adapter);
        let merged = load_folder(
            |folder| {
                model.write_changed(folder, None, Float::F32, |name, values| adapter.merge(name, values));
            },
            on,
        );
        let mut tokens = model.prompt.clone();
        for _ in 0..8 {
            let expected = alone(&merged.model, &tokens, None);
            let found = alone(&base.loaded.model, &tokens, Some(&loaded));
            let in_f64: Vec<f64> = expected.iter().map(|&value| value.into()).collect();
            assert!(super::largest_difference(&found, &in_f64) < 1e-3, "{} on {on:?}", adapter.label);
            let likely = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
            assert_eq!(likely(&found), likely(&expected));
            tokens.push(likely(&found) as u32);
        }
    }
}

on_every_backend![agrees_with_mlx_lm, rows_of_a_step_do_not_depend_on_each_other, agrees_with_merged_weights];

fn provide(adapters: &Adapters, artifact: &Artifact) -> Result<Arc<Adapter>, Failure> {
    let (name, digest) = (artifact.name.clone(), artifact.digest.to_string());
    adapters.provide(&AdapterRef { name, digest })
}

#[test]
fn adapters_make_room_for_each_other_unless_they_are_in_use() {
    let model = model("llama");
    let base = Base::new(&model, &model.runs[0], MLX_FLOAT32);
    let [first, second] = <[RecordedAdapter; 2]>::try_from(recorded("llama")).ok().unwrap();
    let [first, second] = [first, second].map(|adapter| base.import(&adapter));
    let adaptable = base.loaded.model.adaptable();
    let sizes = [&first, &second].map(|adapter| adaptable.size(adapter, base.artifact.digest).unwrap());
    let limit = sizes.into_iter().max().unwrap();
    let (store, digest) = (base.store.clone(), base.artifact.digest);
    let adapters = Adapters::new(store, digest, Arc::clone(&adaptable), limit, true);
    let bytes = || adapters.bytes().load(std::sync::atomic::Ordering::Relaxed);
    let one = provide(&adapters, &first).unwrap();
    assert_eq!((one.bytes(), bytes()), (sizes[0], sizes[0]));
    assert!(Arc::ptr_eq(&one, &provide(&adapters, &first).unwrap()), "it is loaded once");
    let failure = provide(&adapters, &second).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Overloaded);
    assert!(failure.message.contains("worker.adapter_max_bytes"), "{}", failure.message);
    drop(one);
    provide(&adapters, &second).unwrap();
    assert_eq!(bytes(), sizes[1], "the first one has made room");

    let none = Adapters::new(base.store.clone(), digest, adaptable, 0, true);
    assert_eq!(provide(&none, &first).unwrap_err().kind, FailureKind::TooLarge);
}

#[test]
fn an_adapter_in_use_is_leased() {
    let model = model("llama");
    let base = Base::new(&model, &model.runs[0], MLX_FLOAT32);
    let adapter = base.load(&recorded("llama")[0]);
    let silent = &mut |_| std::ops::ControlFlow::Continue(());
    assert!(base.store.remove("tiny:first", true, silent).is_err());
    drop(adapter);
    base.store.remove("tiny:first", true, silent).unwrap();
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let model = model("llama");
    let base = Base::new(&model, &model.runs[0], MLX_FLOAT32);
    let other = Base::new(&model, &model.runs[1], MLX_FLOAT32);
    let artifact = other.import(&recorded("llama")[0]);
    let (found, expected) = (other.artifact.digest, base.artifact.digest);
    let error = base.loaded.model.adaptable().load(artifact, expected, u64::MAX).err().unwrap();
    assert!(matches!(error, AdapterError::OtherBase { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&found.to_string()) && text.contains(&expected.to_string()), "{text}");
}

/// What import does not know: which modules a worker can adapt.
#[test]
fn what_the_worker_can_not_adapt_is_refused_by_name() {
    let model = model("llama");
    let base = Base::new(&model, &model.runs[0], MLX_FLOAT32);
    let digest = base.artifact.digest;
    let refusal = |change: fn(&mut artifact_store::Manifest)| {
        let mut artifact = base.import(&recorded("llama")[0]);
        change(&mut artifact.manifest);
        base.loaded.model.adaptable().load(artifact, digest, u64::MAX).err().unwrap().to_string()
    };
    let text = refusal(|manifest| {
        for tensor in &mut manifest.tensors {
            tensor.name = tensor.name.replace("self_attn.q_proj", "self_attn.x_proj");
        }
    });
    assert!(text.contains("self_attn.x_proj"), "{text}");
    let text = refusal(|manifest| drop(manifest.tensors.remove(0)));
    assert!(text.contains("are not two"), "{text}");
    let text = refusal(|manifest| manifest.tensors[0].shape.reverse());
    assert!(text.contains("have shapes"), "{text}");
    let text = refusal(|manifest| manifest.config["lora_parameters"]["scale"] = "x".into());
    assert!(text.contains("lora_parameters.scale"), "{text}");
}
