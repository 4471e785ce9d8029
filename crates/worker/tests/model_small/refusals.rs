//! Weights and settings that a model can't be loaded with.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use worker::model::Model;

use super::{
    BUDGET, import, load_error,
    on::{On, on_every_backend},
    tiny::{Spec, Tensor, Tiny},
};

fn weights_that_do_not_fit_the_configuration_are_named(on: On) {
    let broken = |change: fn(&mut BTreeMap<String, Tensor>)| {
        let spec = on.spec(Spec { quantization: Some((32, 4)), ..Spec::default() });
        let mut tiny = Tiny::new(spec, 10);
        change(&mut tiny.tensors);
        load_error(&tiny, on).to_string()
    };
    let missing = broken(|tensors| drop(tensors.remove("model.layers.1.mlp.up_proj.biases")));
    assert!(missing.contains("no tensor `model.layers.1.mlp.up_proj.biases`"), "{missing}");

    let extra = broken(|tensors| {
        let tensor = tensors["model.norm.weight"].clone();
        tensors.insert("model.layers.0.self_attn.q_norm.weight".to_owned(), tensor);
    });
    assert!(extra.contains("no place for: model.layers.0.self_attn.q_norm.weight"), "{extra}");

    let shape = broken(|tensors| tensors.get_mut("model.norm.weight").unwrap().shape = vec![8, 8]);
    assert!(shape.contains("`model.norm.weight` has shape [8, 8]") && shape.contains("[64]"), "{shape}");

    let packing = broken(|tensors| {
        let scales = tensors.get_mut("model.layers.0.mlp.up_proj.scales").unwrap();
        scales.shape = vec![1, scales.shape.iter().product()];
    });
    assert!(packing.contains("model.layers.0.mlp.up_proj.scales"), "{packing}");

    // A type of integers that takes as many bytes.
    let dtype = broken(|tensors| {
        let norm = tensors.get_mut("model.norm.weight").unwrap();
        norm.dtype = if norm.dtype == "F32" { "I32" } else { "I16" };
    });
    assert!(dtype.contains("`model.norm.weight` holds I"), "{dtype}");
    assert!(dtype.contains("it has to be F32, F16 or BF16"), "{dtype}");
}

fn settings_that_would_be_ignored_are_refused(on: On) {
    let refused = |setting: &str, value: Value| {
        let (mut artifact, _folder) = import(&Tiny::new(on.spec(Spec::default()), 11));
        // Import refuses some of them, which an earlier version stored.
        artifact.manifest.config[setting] = value;
        Model::load(&artifact, on.kernels, BUDGET).err().unwrap().to_string()
    };
    let model_type = refused("model_type", json!("gpt_neox"));
    assert!(model_type.contains("`gpt_neox`") && model_type.contains("`llama`"), "{model_type}");
    assert!(model_type.contains("README"), "{model_type}");
    let rope = refused("rope_scaling", json!({ "rope_type": "ntk", "factor": 4.0 }));
    assert!(rope.contains("`rope_scaling.rope_type` = `ntk`"), "{rope}");
    let no_factor = refused("rope_scaling", json!({ "rope_type": "linear" }));
    assert!(no_factor.contains("rope_scaling.factor"), "{no_factor}");
    assert!(refused("hidden_act", json!("gelu")).contains("`hidden_act` = gelu"));
    assert!(refused("num_key_value_heads", json!(3)).contains("`num_key_value_heads` = 3"));
    assert!(refused("hidden_size", json!("wide")).contains("invalid type"));
    let sliding = refused("layer_types", json!(["full_attention", "chunked_attention"]));
    assert!(sliding.contains("`layer_types` = chunked_attention"), "{sliding}");
    let mode = refused("quantization", json!({ "group_size": 32, "bits": 4, "mode": "mxfp6" }));
    assert!(mode.contains("`quantization.mode` = mxfp6"), "{mode}");
}

on_every_backend![
    weights_that_do_not_fit_the_configuration_are_named,
    settings_that_would_be_ignored_are_refused,
];
