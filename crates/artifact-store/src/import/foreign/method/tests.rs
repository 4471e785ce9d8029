#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

/// Reads `settings` as the `quantization_config` of a configuration.
fn of(settings: Value) -> Result<Option<Said>, String> {
    said(&json!({ "quantization_config": settings }))
}

fn some(method: Method, groups: &[Option<u64>]) -> Result<Option<Said>, String> {
    Ok(Some(Said { method, groups: groups.to_vec() }))
}

fn scheme(weights: Value) -> Value {
    let groups =
        json!({ "group_0": { "targets": ["Linear"], "weights": weights, "input_activations": null } });
    json!({ "quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups })
}

#[test]
fn methods_and_groups_are_told_by_settings() {
    let (first, second) = (Method::Gptq { less_one: true }, Method::Gptq { less_one: false });
    for (settings, expected) in [
        (json!({ "quant_method": "gptq", "bits": 4, "group_size": 128 }), some(first, &[Some(128)])),
        (json!({ "quant_method": "gptq", "checkpoint_format": "gptq" }), some(first, &[])),
        (
            json!({ "quant_method": "gptq", "checkpoint_format": "gptq_v2", "group_size": -1 }),
            some(second, &[None]),
        ),
        (
            json!({ "quant_method": "gptq", "group_size": 128, "dynamic": { "+:.*down.*": { "group_size": 32 }, "-:x": {} } }),
            some(first, &[Some(128), Some(32)]),
        ),
        (json!({ "quant_method": "awq", "version": "GEMM", "bits": 4 }), some(Method::Awq, &[Some(128)])),
        (json!({ "quant_method": "awq", "w_bit": 4, "q_group_size": 64 }), some(Method::Awq, &[Some(64)])),
        (
            scheme(json!({ "num_bits": 4, "type": "int", "strategy": "group", "group_size": 32 })),
            some(Method::CompressedTensors, &[Some(32)]),
        ),
        (scheme(json!({ "num_bits": 8, "strategy": "channel" })), some(Method::CompressedTensors, &[None])),
        (json!({ "quant_method": "fp8" }), Ok(None)),
        (json!({ "bits": 4, "group_size": 64 }), Ok(None)),
    ] {
        assert_eq!(of(settings.clone()), expected, "{settings}");
    }
}

#[test]
fn other_layouts_are_refused_by_name() {
    let with = |key: &str, value: Value| {
        let mut settings = scheme(json!({ "strategy": "channel" }));
        settings[key] = value;
        settings
    };
    for (settings, expected) in [
        (json!({ "quant_method": "gptq", "checkpoint_format": "marlin" }), "\"marlin\""),
        (json!({ "quant_method": "gptq", "is_marlin_format": true }), "is_marlin_format"),
        (json!({ "quant_method": "gptq", "group_size": 0 }), "\"group_size\": 0"),
        (json!({ "quant_method": "gptq", "group_size": "128" }), "\"group_size\": \"128\""),
        (json!({ "quant_method": "awq", "version": "gemv" }), "\"version\": \"gemv\""),
        (json!({ "quant_method": "awq", "backend": "llm-awq" }), "llm-awq"),
        (json!({ "quant_method": "awq", "bits": 3 }), "\"bits\": 3"),
        (json!({ "quant_method": "awq", "group_size": 0 }), "\"group_size\": 0"),
        (with("format", json!("int-quantized")), "int-quantized"),
        (with("kv_cache_scheme", json!({ "num_bits": 8 })), "kv_cache_scheme"),
        (with("transform_config", json!({ "config_groups": {} })), "transform_config"),
        (with("sparsity_config", json!({ "format": "sparse-24-bitmask" })), "sparsity_config"),
        (scheme(json!({ "type": "float", "strategy": "channel" })), "\"type\": \"float\""),
        (scheme(json!({ "strategy": "tensor" })), "\"strategy\": \"tensor\""),
        (scheme(json!({ "strategy": "group" })), "\"group_size\": null"),
    ] {
        let refused = of(settings.clone()).unwrap_err();
        assert!(refused.contains(expected), "{settings}: {refused}");
    }
    let mut activations = scheme(json!({ "strategy": "channel" }));
    activations["config_groups"]["group_0"]["input_activations"] = json!({ "num_bits": 8 });
    assert!(of(activations).unwrap_err().contains("input_activations"));
}

#[test]
fn settings_are_found_and_removed_where_configurations_have_them() {
    let settings = json!({ "quant_method": "gptq" });
    for mut config in [
        json!({ "quantization_config": settings }),
        json!({ "text_config": { "quantization_config": settings } }),
        json!({ "compression_config": scheme(json!({ "strategy": "channel" })) }),
    ] {
        assert!(said(&config).unwrap().is_some(), "{config}");
        remove_settings(&mut config);
        assert_eq!(said(&config), Ok(None), "{config}");
    }
    let mlx = json!({ "quantization": { "bits": 4, "group_size": 64 }, "quantization_config": settings });
    assert_eq!(said(&mlx), Ok(None), "a conversion may keep what the original said");
}
