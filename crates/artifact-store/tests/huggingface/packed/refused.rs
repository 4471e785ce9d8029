//! Packed matrices that can't be converted, or are not what their settings say.

use std::ops::ControlFlow;

use artifact_store::{ImportOptions, Quantization, Store};
use half::f16;
use serde_json::json;
use tempfile::TempDir;

use super::{CASES, Case, MODULE, Tensors, case, name, write};
use crate::{refusal, support::huggingface_folder};

#[test]
fn what_mlx_cannot_hold_is_refused_by_name() {
    let refused = |of: &str, change: &dyn Fn(&mut Case)| {
        let mut case = case(of);
        change(&mut case);
        let text = refusal(|folder| write(folder, &case.settings, &case.tensors));
        assert!(text.contains(MODULE) && text.contains("--quantize"), "{text}");
        text
    };
    let gptq = "gptq v1, 4 bits, groups of 32";
    let awq = "awq, groups of 32";
    let compressed = "compressed-tensors, 4 bits, groups of 32, not";
    let reordered = refused(gptq, &|case| case.tensors.get_mut(&name("g_idx")).unwrap().2[0] = 1);
    assert!(reordered.contains("g_idx") && reordered.contains("desc_act"), "{reordered}");
    for part in ["qzeros", "scales"] {
        let missing = refused(gptq, &|case| drop(case.tensors.remove(&name(part))));
        assert!(missing.contains(part), "{missing}");
    }
    // Groups of 16, and groups of another size than the configuration says.
    let regrouped = |of: &str, groups: u64, size: u64| {
        refused(of, &|case| {
            case.settings["group_size"] = json!(size);
            for part in ["qzeros", "scales"] {
                let (_, shape, bytes) = case.tensors.get_mut(&name(part)).unwrap();
                let row = bytes.len() / shape[0] as usize;
                *bytes = bytes[..row].repeat(groups as usize);
                shape[0] = groups;
            }
        })
    };
    assert!(regrouped(awq, 4, 16).contains("16 of its inputs"));
    assert!(regrouped(awq, 1, 32).contains("64 of its inputs share a scale, which config.json does not say"));
    assert!(regrouped(gptq, 1, 64).contains("g_idx"));
    let types = [
        (gptq, "qweight", "F32"),
        (gptq, "scales", "I32"),
        (awq, "qzeros", "F32"),
        (compressed, "weight_packed", "F32"),
    ];
    for (of, part, dtype) in types {
        let text = refused(of, &|case| {
            let tensor = case.tensors.get_mut(&name(part)).unwrap();
            tensor.0 = dtype.to_owned();
            let elements = tensor.1.iter().product::<u64>() as usize;
            tensor.2.resize(4 * elements, 0);
        });
        assert!(text.contains(part) && text.contains(dtype), "{text}");
    }
    assert!(
        refused(compressed, &|case| drop(case.tensors.remove(&name("weight_shape"))))
            .contains("fit together")
    );
}

#[test]
fn what_is_no_number_is_refused() {
    for bad in [f16::INFINITY, f16::NAN] {
        let mut case = case("gptq v1, 4 bits, groups of 32");
        case.tensors.get_mut(&name("scales")).unwrap().2[..2].copy_from_slice(&bad.to_le_bytes());
        let text = refusal(|folder| write(folder, &case.settings, &case.tensors));
        assert!(text.contains(MODULE) && text.contains("finite"), "{text}");
    }
    // Half of the range of 8 bits times this scale is beyond float16.
    let mut case = case("gptq v2, 8 bits, groups of 96");
    case.tensors.get_mut(&name("scales")).unwrap().2[..2]
        .copy_from_slice(&f16::from_f32(1000.0).to_le_bytes());
    let text = refusal(|folder| write(folder, &case.settings, &case.tensors));
    assert!(text.contains(MODULE) && text.contains("finite"), "{text}");
}

#[test]
fn shapes_that_do_not_fit_together_are_refused() {
    for case in &*CASES {
        for part in case.tensors.keys().filter(|part| !part.ends_with("g_idx")) {
            let (_, shape, _) = &case.tensors[part];
            for side in 0..shape.len() {
                let mut tensors = case.tensors.clone();
                let (_, shape, bytes) = tensors.get_mut(part).unwrap();
                let without_side = bytes.len() / shape[side] as usize;
                shape[side] += 1;
                bytes.resize(bytes.len() + without_side, 0);
                let text = refusal(|folder| write(folder, &case.settings, &tensors));
                assert!(text.contains(MODULE), "{} with another {part}: {text}", case.name);
            }
            // A tensor without elements.
            let mut tensors = case.tensors.clone();
            let (_, shape, bytes) = tensors.get_mut(part).unwrap();
            shape[0] = 0;
            bytes.clear();
            let text = refusal(|folder| write(folder, &case.settings, &tensors));
            assert!(text.contains(MODULE), "{} without {part}: {text}", case.name);
        }
    }
}

#[test]
fn settings_and_tensors_have_to_belong_together() {
    let gptq = case("gptq v1, 4 bits, groups of 32");
    let none = refusal(|folder| {
        let dense = ("F16".to_owned(), vec![2], vec![0; 4]);
        write(folder, &gptq.settings, &Tensors::from([("model.norm.weight".to_owned(), dense)]));
    });
    assert!(none.contains("none is"), "{none}");
    let awq = case("awq, groups of 32");
    // Tensors of one method under the settings of another.
    let text = refusal(|folder| write(folder, &gptq.settings, &awq.tensors));
    assert!(text.contains("fit together"), "{text}");
    let text = refusal(|folder| write(folder, &awq.settings, &case("compressed-tensors, 4").tensors));
    assert!(text.contains("none is"), "{text}");
    // A part of a matrix that is not there.
    let mut tensors = gptq.tensors.clone();
    tensors.insert("model.layers.9.mlp.up_proj.qzeros".to_owned(), ("I32".to_owned(), vec![1], vec![0; 4]));
    let text = refusal(|folder| write(folder, &gptq.settings, &tensors));
    assert!(text.contains("layers.9.mlp.up_proj.qzeros"), "{text}");
}

#[test]
fn what_is_packed_is_not_quantized_again() {
    let root = TempDir::new().unwrap();
    let folder = huggingface_folder(&root.path().join("model"));
    let awq = case("awq, groups of 32");
    write(&folder, &awq.settings, &awq.tensors);
    let store = Store::open(root.path().join("store")).unwrap();
    let options = ImportOptions { quantize: Quantization::new(4, 64) };
    let error = store.import_with(&folder, None, &options, &mut |_| ControlFlow::Continue(()));
    assert!(error.unwrap_err().to_string().contains("without --quantize"));
}
