//! Recorded models as folders, with the weights that `small.py` gives them.

use std::{collections::BTreeMap, path::Path};

use mlx_ext::MicroScaling;
use mlx_rs::{
    Array,
    ops::{dequantize, quantize},
    transforms::eval,
};
use serde_json::json;

use super::{
    super::tiny::{Float, SplitMix, Tensor, write_folder},
    Recorded, Run,
};

/// Values of one group of the quantized matrices.
const GROUP_SIZE: i32 = 32;

impl Recorded {
    /// Dense without a run.
    pub(crate) fn write(&self, folder: &Path, run: Option<&Run>, float: Float) {
        self.write_changed(folder, run, float, |_, _| {});
    }

    /// The same after `change`, which is called with the name and the values of each tensor.
    pub(crate) fn write_changed(
        &self,
        folder: &Path,
        run: Option<&Run>,
        float: Float,
        change: impl Fn(&str, &mut Vec<f64>),
    ) {
        let (bits, experts) = run.map_or((None, None), |run| (run.bits, run.experts.as_deref()));
        let mut config = self.config.clone();
        let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
        let mut others = serde_json::Map::new();
        for (name, shape) in &self.tensors {
            let mut values = values(name, shape);
            change(name, &mut values);
            match (bits, name.strip_suffix(".weight")) {
                (Some(_), Some(module)) if experts.is_some() && module.contains(".experts.") => {
                    let format = MicroScaling::ALL.into_iter().find(|format| Some(format.name()) == experts);
                    let format = format.unwrap();
                    tensors.extend(micro_scaled(module, shape, &values, format));
                    let (group_size, bits, mode) = (format.group_size(), format.bits(), format.name());
                    let packing = json!({ "group_size": group_size, "bits": bits, "mode": mode });
                    others.insert(module.to_owned(), packing);
                }
                (Some(bits), Some(module))
                    if shape.len() > 1 && !is_kernel(module) && !self.dense.iter().any(|it| it == module) =>
                {
                    tensors.extend(packed(module, shape, &values, bits));
                }
                // Experts that transformers stores without `.weight`.
                (Some(bits), None) if shape.len() == 3 => {
                    tensors.extend(packed(name, shape, &values, bits));
                }
                _ => drop(tensors.insert(name.clone(), float.tensor(shape.clone(), &values))),
            }
        }
        if config.get("text_config").is_some() {
            // What else such a model has is left out.
            let tower = if config["model_type"] == "llama4" { "vision_model" } else { "vision_tower" };
            let tensor = float.tensor(vec![4, 8], &[0.0; 32]);
            tensors.insert(format!("{tower}.patch_embedding.weight"), tensor);
        }
        if let Some(bits) = bits {
            others.extend([("group_size".to_owned(), GROUP_SIZE.into()), ("bits".to_owned(), bits.into())]);
            config["quantization"] = others.into();
        }
        write_folder(folder, &config, config["vocab_size"].as_u64().unwrap() as usize, &tensors, 0);
    }
}

/// The same as in `small.py`: they follow from the name, and are exact in every float type.
pub(crate) fn values(name: &str, shape: &[usize]) -> Vec<f64> {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut random = SplitMix(hash);
    let (low, high) = match shape {
        [_] if name.ends_with(".layer_scalar") => (0.5, 1.5),
        [_] if name.ends_with(".router.scale") => (8.0, 24.0),
        [_] if name.ends_with("norm.weight") || name.ends_with("Norm.weight") => (0.5, 1.5),
        [_] if name.ends_with(".e_score_correction_bias") => (0.0, 0.25),
        _ => (-0.25, 0.25),
    };
    let count = shape.iter().product();
    (0..count).map(|_| low + (high - low) * (random.next() >> 57) as f64 / 128.0).collect()
}

fn array(shape: &[usize], values: &[f64]) -> Array {
    let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    let shape: Vec<i32> = shape.iter().map(|&dim| dim as i32).collect();
    Array::from_slice(&values, &shape)
}

/// A matrix of small floats as MLX makes it.
fn micro_scaled(
    module: &str,
    shape: &[usize],
    values: &[f64],
    format: MicroScaling,
) -> [(String, Tensor); 2] {
    let (packed, scales) = format.quantize(&array(shape, values)).unwrap();
    eval([&packed, &scales]).unwrap();
    let tensor = |dtype, array: &Array, bytes| Tensor {
        dtype,
        shape: array.shape().iter().map(|&dim| dim as usize).collect(),
        bytes,
    };
    let words = packed.as_slice::<u32>().iter().flat_map(|word| word.to_le_bytes()).collect();
    [
        (format!("{module}.weight"), tensor("U32", &packed, words)),
        (format!("{module}.scales"), tensor("U8", &scales, scales.as_slice::<u8>().to_vec())),
    ]
}

/// Whether it is that of a convolution, which is never quantized.
fn is_kernel(module: &str) -> bool {
    module.ends_with(".conv") || module.ends_with(".conv1d")
}

/// What is left of a matrix's values when it is quantized and expanded.
pub(crate) fn unpacked(shape: &[usize], values: &[f64], bits: i32) -> Vec<f64> {
    let (packed, scales, biases) = quantize(array(shape, values), GROUP_SIZE, bits).unwrap();
    let expanded = dequantize(packed, scales, &biases, GROUP_SIZE, bits).unwrap();
    expanded.eval().unwrap();
    expanded.as_slice::<f32>().iter().map(|&value| f64::from(value)).collect()
}

/// A matrix quantized as MLX does it.
pub(crate) fn packed(module: &str, shape: &[usize], values: &[f64], bits: i32) -> [(String, Tensor); 3] {
    let weight = array(shape, values);
    let (packed, scales, biases) = quantize(&weight, GROUP_SIZE, bits).unwrap();
    eval([&packed, &scales, &biases]).unwrap();
    let shape_of = |array: &Array| array.shape().iter().map(|&dim| dim as usize).collect::<Vec<_>>();
    let floats = |array: &Array| {
        let values: Vec<f64> = array.as_slice::<f32>().iter().map(|&value| f64::from(value)).collect();
        Float::F32.tensor(shape_of(array), &values)
    };
    let words = packed.as_slice::<u32>().iter().flat_map(|word| word.to_le_bytes()).collect();
    let words = Tensor { dtype: "U32", shape: shape_of(&packed), bytes: words };
    [
        (format!("{module}.weight"), words),
        (format!("{module}.scales"), floats(&scales)),
        (format!("{module}.biases"), floats(&biases)),
    ]
}
