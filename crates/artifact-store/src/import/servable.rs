//! What no worker here could load, refused by name before it is stored.

use std::collections::HashMap;

use serde_json::Value;

use super::{foreign, gpt_oss};
use crate::{
    Dtype, Packing, Quantization, packing::SMALL_FLOATS, quantization::WIDTHS, weights::HeaderTensor,
};

/// What to do about a quantization that can't be served.
const ADVICE: &str = "MLX's affine quantization with 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128, its MXFP4, \
                      MXFP8 and NVFP4, GPTQ, AWQ and compressed-tensors where MLX's packing has the same values, and \
                      weights that are not quantized, can be served: import such a conversion, for example from \
                      mlx-community, or the original model with --quantize 4";
/// Ends of tensor names, and the quantization that has such tensors.
const FOREIGN: [(&str, &str); 21] = [
    (".qweight", "GPTQ or AWQ"),
    (".qzeros", "GPTQ or AWQ"),
    (".g_idx", "GPTQ"),
    (".q_weight", "EXL2"),
    (".q_scale", "EXL2"),
    (".trellis", "EXL3"),
    (".absmax", "bitsandbytes"),
    (".quant_map", "bitsandbytes"),
    (".quant_state.bitsandbytes__nf4", "bitsandbytes"),
    (".quant_state.bitsandbytes__fp4", "bitsandbytes"),
    (".SCB", "bitsandbytes"),
    (".weight_scale_inv", "FP8"),
    (".weight_scale", "FP8 or compressed-tensors"),
    (".weight_scale_2", "NVFP4"),
    (".weight_packed", "compressed-tensors"),
    (".weight_zero_point", "compressed-tensors"),
    ("_blocks", "MXFP4"),
    (".W_q", "HQQ"),
    (".codebooks", "AQLM"),
    (".centroids", "VPTQ"),
    (".tlut", "QTIP"),
];

/// Why a model can't be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unservable(String);

/// Refuses a model by its `config.json`, as far as that tells; import looks at the tensors as well.
///
/// # Errors
/// If its weights have a quantization that can't be served.
pub(super) fn check_config(config: &Value) -> Result<(), Unservable> {
    let foreign = foreign::said(config).map_err(|what| unservable("its quantization", &what))?;
    if gpt_oss::is_original(config) || foreign.is_some() {
        return Ok(());
    }
    for config in [config, &config["text_config"]] {
        let quantization = mlx_quantization(config)?;
        match quantization {
            Value::Null => {}
            Value::Object(settings) => {
                check_packing("its quantization", quantization)?;
                for (module, own) in settings.iter().filter(|(_, own)| own.is_object()) {
                    check_packing(&format!("the quantization of `{module}`"), own)?;
                }
            }
            other => return Err(unservable("its quantization", &other.to_string())),
        }
    }
    Ok(())
}

/// Refuses tensors of a quantization that can't be served, whatever the configuration says.
pub(super) fn check_tensors<'a>(tensors: impl Iterator<Item = &'a HeaderTensor>) -> Result<(), Unservable> {
    let tensors: HashMap<&str, &HeaderTensor> =
        tensors.map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let mut names: Vec<&str> = tensors.keys().copied().collect();
    names.sort_unstable();
    for name in names {
        let refuse = |what: &str| Err(unservable(&format!("the quantization of tensor `{name}`"), what));
        if let Some((_, method)) = FOREIGN.iter().find(|(end, _)| name.ends_with(end)) {
            return refuse(method);
        }
        let Some(module) = name.strip_suffix(".weight") else { continue };
        match tensors[name].dtype {
            Dtype::F4 | Dtype::F6_E2M3 | Dtype::F6_E3M2 => return refuse("a float of 4 or 6 bits"),
            Dtype::F8_E5M2 | Dtype::F8_E4M3 | Dtype::F8_E8M0 => return refuse("FP8"),
            Dtype::I8 | Dtype::U8 => return refuse("bytes"),
            Dtype::U32 => {}
            _ => continue,
        }
        let part = |field: &str| tensors.get(format!("{module}.{field}").as_str()).copied();
        let Some(scales) = part("scales") else { continue };
        if matches!(scales.dtype, Dtype::F8_E4M3 | Dtype::F8_E8M0) {
            return refuse("scales of a float type of 8 bits, where MLX has U8");
        }
        let of_small_floats = scales.dtype == Dtype::U8;
        let rows = |tensor: &HeaderTensor| tensor.shape.split_last().map(|(_, rows)| rows.to_vec());
        if (part("biases").is_none() && !of_small_floats) || rows(tensors[name]) != rows(scales) {
            // Not a quantization but a mistake, which loading describes.
            continue;
        }
        // The shapes tell the bits of a group, which is its size times the bits of a weight.
        let columns = |tensor: &HeaderTensor| tensor.shape.last().copied().unwrap_or_default();
        let (words, groups) = (columns(tensors[name]), columns(scales));
        let group_bits =
            words.saturating_mul(32).checked_div(groups).filter(|bits| bits * groups == words * 32);
        let servable = if of_small_floats { is_group_of_small_floats } else { is_servable_group };
        if !group_bits.is_some_and(servable) {
            return refuse(&format!("{words} words of 32 bits in {groups} groups"));
        }
    }
    Ok(())
}

/// MLX's settings of a quantized model; `null` if it is not quantized.
fn mlx_quantization(config: &Value) -> Result<&Value, Unservable> {
    if !config["quantization"].is_null() {
        return Ok(&config["quantization"]);
    }
    let other = [&config["quantization_config"], &config["compression_config"]];
    let Some(settings) = other.into_iter().find(|settings| !settings.is_null()) else {
        return Ok(&Value::Null);
    };
    let text = |key: &str| settings[key].as_str();
    match text("quant_method").or(text("quant_algo")) {
        Some("mlx" | "affine") => Ok(settings),
        Some(method) => Err(unservable("its quantization", &method_name(method))),
        None if settings["load_in_4bit"] == true || settings["load_in_8bit"] == true => {
            Err(unservable("its quantization", "bitsandbytes"))
        }
        None if settings["config_groups"].is_object() => {
            Err(unservable("its quantization", "compressed-tensors"))
        }
        None => Ok(settings),
    }
}

/// A method as it is usually written, and as the configuration has it.
fn method_name(method: &str) -> String {
    let usual = match method {
        "gptq" | "awq" | "fp8" | "mxfp4" | "hqq" | "aqlm" | "vptq" | "eetq" | "exl2" | "exl3" => {
            method.to_uppercase()
        }
        "bitsandbytes" => "bitsandbytes".to_owned(),
        other => return format!("{other:?}"),
    };
    format!("{usual} (\"quant_method\": {method:?})")
}

/// `what` has these MLX settings: MLX's defaults where they say nothing.
fn check_packing(what: &str, settings: &Value) -> Result<(), Unservable> {
    let mode = match &settings["mode"] {
        Value::Null => None,
        Value::String(mode) if mode == "affine" => None,
        Value::String(mode) if SMALL_FLOATS.iter().any(|(name, ..)| mode == name) => {
            Some(mode.to_uppercase())
        }
        Value::String(mode) => return Err(unservable(what, &mode.to_uppercase())),
        other => return Err(unservable(what, &format!("\"mode\": {other}"))),
    };
    let is_servable = |Packing { mode, bits, group_size }: Packing| {
        SMALL_FLOATS.contains(&(mode, bits, group_size))
            || (mode == "affine" && Quantization::new(bits, group_size).is_some())
    };
    if Packing::of(settings).is_some_and(is_servable) {
        return Ok(());
    }
    let said = |key: &str, default: &str| match &settings[key] {
        Value::Null => default.to_owned(),
        other => other.to_string(),
    };
    let mode = mode.map(|mode| format!("{mode} with ")).unwrap_or_default();
    let (bits, group_size) = (said("bits", "4"), said("group_size", "64"));
    Err(unservable(what, &format!("{mode}{bits} bits in groups of {group_size}")))
}

/// Whether a group of this many bits can be a group of a [`Quantization`].
fn is_servable_group(group_bits: u64) -> bool {
    let sizes = Quantization::GROUP_SIZES.into_iter().map(u64::from);
    sizes.flat_map(|size| WIDTHS.map(|bits| u64::from(bits) * size)).any(|servable| servable == group_bits)
}

/// Whether a group of this many bits can be one of [`SMALL_FLOATS`].
fn is_group_of_small_floats(group_bits: u64) -> bool {
    SMALL_FLOATS.iter().any(|(_, bits, size)| u64::from(*bits) * u64::from(*size) == group_bits)
}

fn unservable(subject: &str, what: &str) -> Unservable {
    Unservable(format!("{subject} can't be served: {what}. {ADVICE}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn refusal(config: &Value) -> String {
        check_config(config).unwrap_err().to_string()
    }

    #[test]
    fn what_can_be_served_is_accepted() {
        for config in [
            json!({}),
            json!({ "quantization": null, "quantization_config": null, "num_attention_heads": 32, "head_dim": null }),
            json!({ "quantization": { "bits": 4, "group_size": 64 } }),
            json!({ "quantization": { "bits": 8.0, "group_size": 32, "mode": "affine" } }),
            json!({ "quantization": { "group_size": 128 } }),
            json!({ "quantization": { "bits": 3, "group_size": 64, "lm_head": { "bits": 6, "group_size": 32 } } }),
            json!({ "quantization": { "bits": 4, "group_size": 32, "mode": "mxfp4" } }),
            json!({ "quantization": { "mode": "nvfp4", "lm_head": { "mode": "mxfp8" } } }),
            json!({ "quantization_config": { "bits": 4, "group_size": 64 } }),
            json!({ "quantization_config": { "quant_method": "gptq", "bits": 4, "group_size": 128 } }),
            json!({ "text_config": { "quantization_config": { "quant_method": "awq", "bits": 4, "group_size": 128 } } }),
            json!({ "model_type": "gpt_oss", "quantization_config": { "quant_method": "mxfp4" } }),
            json!({ "quantization": { "bits": 4, "group_size": 64, "lm_head": { "bits": 8, "group_size": 32 }, "x": false } }),
            json!({ "quantization": { "bits": 4, "group_size": 64 }, "quantization_config": { "quant_method": "fp8" } }),
        ] {
            assert_eq!(check_config(&config), Ok(()), "{config}");
        }
    }

    #[test]
    fn foreign_methods_are_named() {
        let methods = [
            "bitsandbytes",
            "fp8",
            "mxfp4",
            "compressed-tensors",
            "hqq",
            "aqlm",
            "quanto",
            "torchao",
            "fbgemm_fp8",
            "modelopt",
            "auto-round",
            "bitnet",
            "something new",
        ];
        for method in methods {
            let settings = json!({ "quant_method": method, "bits": 4, "group_size": 64 });
            let nested = json!({ "text_config": { "quantization_config": settings } });
            for config in [json!({ "quantization_config": settings }), nested] {
                let refused = refusal(&config);
                assert!(refused.contains(method) && refused.contains("--quantize"), "{refused}");
            }
        }
        assert!(
            refusal(&json!({ "quantization_config": { "load_in_4bit": true } })).contains("bitsandbytes")
        );
        assert!(
            refusal(&json!({ "compression_config": { "config_groups": {} } })).contains("compressed-tensors")
        );
        assert!(refusal(&json!({ "quantization_config": { "quant_algo": "NVFP4" } })).contains("NVFP4"));
    }

    #[test]
    fn widths_groups_and_modes_are_named() {
        for bits in [7, 1, 16, 0, -4] {
            let refused = refusal(&json!({ "quantization": { "bits": bits, "group_size": 64 } }));
            assert!(refused.contains(&format!("{bits} bits in groups of 64")), "{refused}");
        }
        let refused = refusal(&json!({ "quantization": { "bits": 4, "group_size": 16 } }));
        assert!(refused.contains("groups of 16"), "{refused}");
        for (mode, bits, group) in [("mxfp4", 8, 32), ("nvfp4", 4, 32), ("mxfp8", 8, 64), ("mxfp6", 4, 32)] {
            let said = json!({ "bits": bits, "group_size": group, "mode": mode });
            let refused = refusal(&json!({ "quantization": said }));
            assert!(refused.to_lowercase().contains(&format!(": {mode}")), "{refused}");
        }
        let mixed = json!({ "bits": 4, "group_size": 64, "model.layers.1.mlp.up_proj": { "bits": 7, "group_size": 64 } });
        let refused = refusal(&json!({ "quantization": mixed }));
        assert!(refused.contains("`model.layers.1.mlp.up_proj`") && refused.contains("7 bits"), "{refused}");
        for odd in [json!("awq"), json!(4), json!({ "bits": "4" }), json!({ "bits": 4.5 })] {
            refusal(&json!({ "quantization": odd }));
        }
    }

    fn tensor(name: &str, dtype: Dtype, shape: &[u64]) -> HeaderTensor {
        HeaderTensor { name: name.to_owned(), dtype, shape: shape.to_vec(), offset: 0, len: 0 }
    }

    #[test]
    fn tensors_tell_what_a_configuration_does_not() {
        let packed = |words, groups| {
            let part = |field: &str, dtype, columns| tensor(&format!("m.{field}"), dtype, &[8, columns]);
            let [scales, biases] = ["scales", "biases"].map(|field| part(field, Dtype::F16, groups));
            [part("weight", Dtype::U32, words), scales, biases]
        };
        // 256 inputs: bits, group size.
        for (bits, group, served) in [
            (4, 64, true),
            (8, 32, true),
            (4, 128, true),
            (3, 64, true),
            (6, 64, true),
            (5, 32, true),
            (2, 32, true),
            (7, 32, false),
            (1, 32, false),
        ] {
            let tensors = packed(256 * bits / 32, 256 / group);
            assert_eq!(check_tensors(tensors.iter()).is_ok(), served, "{bits} bits in groups of {group}");
        }
        assert!(check_tensors(packed(32, 0).iter()).is_err());
        assert!(check_tensors(packed(32, 3).iter()).is_err());
        for (words, groups, dtype, served) in [
            (32, 8, Dtype::U8, true),
            (32, 16, Dtype::U8, true),
            (64, 8, Dtype::U8, true),
            (32, 2, Dtype::U8, false),
            (32, 8, Dtype::F8_E8M0, false),
        ] {
            let mut small_floats = packed(words, groups);
            small_floats[1].dtype = dtype;
            let checked = check_tensors(small_floats[..2].iter());
            assert_eq!(checked.is_ok(), served, "{words} words, {groups} scales of {dtype:?}");
        }
        assert!(check_tensors(packed(32, 4)[..2].iter()).is_ok(), "loading says what is missing");
        for (name, dtype, word) in [
            ("m.qweight", Dtype::I32, "GPTQ"),
            ("m.weight", Dtype::F8_E4M3, "FP8"),
            ("m.weight", Dtype::U8, "bytes"),
            ("m.weight.absmax", Dtype::F32, "bitsandbytes"),
            ("m.weight_scale_inv", Dtype::F32, "FP8"),
            ("m.weight_packed", Dtype::I32, "compressed-tensors"),
        ] {
            let refused = check_tensors([tensor(name, dtype, &[8, 8])].iter()).unwrap_err().to_string();
            assert!(refused.contains(word) && refused.contains(name), "{refused}");
        }
        assert!(check_tensors([tensor("m.weight", Dtype::BF16, &[8, 8])].iter()).is_ok());
    }
}
