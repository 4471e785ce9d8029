#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

const INPUTS: i32 = 128;

fn tensor(name: &str, dtype: Dtype, columns: u64) -> TensorEntry {
    TensorEntry { name: name.to_owned(), dtype, shape: vec![8, columns], file: 0, offset: 0, len: 0 }
}

/// How `m.weight` is packed, whose rows have so many words and scales.
fn packing(config: &Value, words: u64, scales: (Dtype, u64)) -> Result<Option<Packing>, ModelError> {
    let packings = Packings::parse(Settings::new(config)?)?;
    let (weight, scales) = (tensor("m.weight", Dtype::U32, words), tensor("m.scales", scales.0, scales.1));
    packings.of("m", Some(&weight), Some(&scales), INPUTS)
}

fn affine(group_size: i32, bits: i32) -> Packing {
    Packing::Affine { group_size, bits }
}

#[test]
fn every_affine_packing_is_what_the_configuration_says() {
    for bits in WIDTHS {
        for group in GROUP_SIZES {
            let (words, groups) = ((INPUTS / 32 * bits) as u64, (INPUTS / group) as u64);
            let said = json!({ "quantization": { "bits": bits, "group_size": group } });
            for config in [said, json!({})] {
                let found = packing(&config, words, (Dtype::BF16, groups)).unwrap();
                assert_eq!(found, Some(affine(group, bits)), "{config}");
            }
        }
    }
    let default = json!({ "quantization": {} });
    assert_eq!(packing(&default, 16, (Dtype::F16, 2)).unwrap(), Some(affine(64, 4)));
}

#[test]
fn small_floats_are_told_by_the_mode() {
    for (mode, words, scales) in [("mxfp4", 16, 4), ("mxfp8", 32, 4), ("nvfp4", 16, 8)] {
        let config = json!({ "quantization": { "mode": mode } });
        let found = packing(&config, words, (Dtype::U8, scales)).unwrap();
        let Some(Packing::MicroScaled(format)) = found else { panic!("{mode} is {found:?}") };
        assert_eq!(format.name(), mode);
    }
    let says_nothing = packing(&json!({}), 16, (Dtype::U8, 4)).unwrap_err().to_string();
    assert!(says_nothing.contains("`m.scales` holds U8"), "{says_nothing}");
}

#[test]
fn modules_may_have_their_own() {
    let with = |own: Value| json!({ "quantization": { "bits": 4, "group_size": 64, "m": own } });
    let six = with(json!({ "bits": 6, "group_size": 32 }));
    assert_eq!(packing(&six, 24, (Dtype::BF16, 4)).unwrap(), Some(affine(32, 6)));
    let floats = with(json!({ "mode": "mxfp8" }));
    let found = packing(&floats, 32, (Dtype::U8, 4)).unwrap();
    assert_eq!(found, Some(Packing::MicroScaled(MicroScaling::Mxfp8)));
    assert_eq!(packing(&with(json!(true)), 16, (Dtype::BF16, 2)).unwrap(), Some(affine(64, 4)));

    let dense = with(json!(false));
    let packings = Packings::parse(Settings::new(&dense).unwrap()).unwrap();
    assert_eq!(packings.of("m", None, None, INPUTS).unwrap(), None);
    let refused = packing(&dense, 16, (Dtype::BF16, 2)).unwrap_err().to_string();
    assert!(refused.contains("`m.scales`") && refused.contains("`m` = false"), "{refused}");
    let packings = Packings::parse(Settings::new(&six).unwrap()).unwrap();
    let missing = packings.of("m", None, None, INPUTS).unwrap_err().to_string();
    assert!(missing.contains("`m.scales` is missing") && missing.contains("6 bits"), "{missing}");
    assert_eq!(packings.of("other", None, None, INPUTS).unwrap(), None);

    let nested = json!({ "text_config": { "quantization": { "bits": 3, "group_size": 32 } } });
    assert_eq!(packing(&nested, 12, (Dtype::F32, 4)).unwrap(), Some(affine(32, 3)));
}

#[test]
fn tensors_that_are_otherwise_are_named_with_the_setting() {
    let said = json!({ "quantization": { "bits": 6, "group_size": 64 } });
    for (words, scales, name) in [
        (12, (Dtype::BF16, 2), "m.weight"),
        (24, (Dtype::BF16, 4), "m.scales"),
        (24, (Dtype::U8, 2), "m.scales"),
        (16, (Dtype::BF16, 2), "m.weight"),
    ] {
        let refused = packing(&said, words, scales).unwrap_err().to_string();
        let setting = "`quantization` = 6 bits in groups of 64";
        assert!(refused.contains(&format!("`{name}`")) && refused.contains(setting), "{refused}");
    }
    let floats = json!({ "quantization": { "mode": "mxfp4" } });
    let refused = packing(&floats, 16, (Dtype::BF16, 4)).unwrap_err().to_string();
    assert!(refused.contains("`m.scales` holds BF16") && refused.contains("= mxfp4"), "{refused}");
    for (words, scales) in [(15, 2), (16, 3), (28, 2)] {
        let refused = packing(&json!({}), words, (Dtype::F16, scales)).unwrap_err();
        assert!(matches!(refused, ModelError::WrongShape { .. }), "{refused}");
    }
}

#[test]
fn settings_that_no_kernel_covers_are_named() {
    for (said, name) in [
        (json!({ "bits": 7, "group_size": 64 }), "quantization.bits"),
        (json!({ "bits": 4, "group_size": 16 }), "quantization.group_size"),
        (json!({ "mode": "mxfp6" }), "quantization.mode"),
        (json!({ "mode": "mxfp4", "bits": 8 }), "quantization.bits"),
        (json!({ "mode": "nvfp4", "group_size": 32 }), "quantization.group_size"),
        (json!({ "quant_method": "gptq", "bits": 4 }), "quantization.quant_method"),
        (json!({ "bits": 4, "model.x": { "bits": 9 } }), "model.x.bits"),
    ] {
        let config = json!({ "quantization": said });
        let refused = Packings::parse(Settings::new(&config).unwrap()).unwrap_err().to_string();
        assert!(refused.contains(&format!("`{name}`")), "{refused}");
    }
}
