//! Rotations of layers of several kinds, and such as nobody would write.

use serde_json::json;

use super::*;

/// The local base is that of the kind's own parameters, else a setting's, else the usual one.
#[test]
fn layers_of_a_kind_have_parameters_of_their_own() {
    let local = |changes: Value| {
        let config = config(changes);
        let kind = ("sliding_attention", "rope_local_base_freq");
        RopeConfig::parse(Settings::new(&config).unwrap(), false, kind).unwrap()
    };
    let kinds = |own: Value| json!({ "full_attention": { "rope_theta": 1e6 }, "sliding_attention": own });
    let theta = json!({ "rope_theta": 5e5 });
    for (parameters, base) in [
        (json!({ "rope_parameters": kinds(theta.clone()), "rope_local_base_freq": 2e4 }), 5e5),
        (json!({ "rope_parameters": kinds(json!({})), "rope_local_base_freq": 2e4 }), 2e4),
        (json!({ "rope_parameters": kinds(json!({})), "rope_theta": 1e6 }), 1e4),
        (json!({ "rope_parameters": { "full_attention": theta }, "rope_theta": 1e6 }), 1e4),
    ] {
        assert_eq!(local(parameters.clone()), RopeConfig::plain(base), "{parameters}");
    }
}

/// Each would give a rotation that is none, or another one than was meant.
#[test]
fn hostile_rotations_are_refused() {
    let scaled = |kind: &str, more: Value| {
        let mut object = json!({
            "type": kind, "factor": 4.0, "original_max_position_embeddings": 1000, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "long_factor": vec![2.0; 8],
        });
        for (name, value) in more.as_object().unwrap() {
            object[name] = value.clone();
        }
        json!({ "rope_scaling": object })
    };
    let bad_numbers = [
        json!(0.0),
        json!(-1.0),
        json!({ "__float__": "NaN" }),
        json!(1e9),
        json!("4"),
        json!([4.0]),
        json!({}),
    ];
    for bad in &bad_numbers {
        for kind in ["linear", "dynamic", "llama3", "yarn"] {
            refused(scaled(kind, json!({ "factor": bad })), "rope_scaling.factor");
        }
        refused(scaled("longrope", json!({ "long_factor": bad })), "rope_scaling.long_factor");
        refused(scaled("longrope", json!({ "long_factor": vec![bad; 8] })), "rope_scaling.long_factor");
        if bad != &json!(1e9) {
            refused(json!({ "rope_theta": bad }), "rope_theta");
        }
    }
    for (kind, name, value) in [
        ("yarn", "beta_fast", json!(0.5)),
        ("yarn", "beta_slow", json!(64)),
        ("yarn", "beta_slow", json!(-1)),
        ("yarn", "mscale", json!(-1.0)),
        ("yarn", "attention_factor", json!(0.0)),
        ("yarn", "original_max_position_embeddings", json!(0)),
        ("longrope", "original_max_position_embeddings", json!(1)),
        ("longrope", "attention_factor", json!({ "__float__": "Infinity" })),
        ("longrope", "long_factor", json!(vec![2.0; 7])),
        ("longrope", "long_factor", json!(vec![2.0; 9])),
        ("llama3", "low_freq_factor", json!(5.0)),
        ("yarn", "llama_4_scaling_beta", json!(-0.5)),
    ] {
        let changes = scaled(kind, json!({ name: value }));
        let error = read(&config(changes.clone())).unwrap_err().to_string();
        assert!(error.contains("`rope_scaling."), "{changes}: {error}");
    }
    refused(json!({ "rope_theta": 0.9, "rope_scaling": yarn(json!({})) }), "rope_scaling.rope_theta");
}
