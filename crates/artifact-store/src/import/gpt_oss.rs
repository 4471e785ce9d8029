//! The experts of gpt-oss as OpenAI publishes them: MXFP4 in bytes, the rows of gates and ups in turn in one tensor. They get
//! the form that mlx-lm gives them, with the same bits.

use serde_json::{Value, json};

use super::rewrite::{Change, Conversion};
use crate::{Dtype, weights::HeaderTensor};

/// Values of a block, and its bytes.
const BLOCK: (u64, u64) = (32, 16);

/// Whether it is such a model, in whichever form.
pub(super) fn is_one(config: &Value) -> bool {
    config["model_type"] == "gpt_oss"
}

/// Whether its experts are in OpenAI's form.
pub(super) fn is_original(config: &Value) -> bool {
    is_one(config)
        && config["quantization"].is_null()
        && config["quantization_config"]["quant_method"] == "mxfp4"
}

/// Says in the configuration how they are packed then, as mlx-lm does. What has no scales is dense.
pub(super) fn describe(config: &mut Value) {
    let packing = json!({ "group_size": BLOCK.0, "bits": 4, "mode": "mxfp4" });
    config["quantization"] = packing.clone();
    config["quantization_config"] = packing;
}

/// What becomes of a tensor of experts; `None` for any other.
///
/// # Errors
/// It has another type or shape than those that OpenAI publishes.
pub(super) fn conversions(tensor: &HeaderTensor) -> Result<Option<Vec<Conversion>>, String> {
    let HeaderTensor { name, dtype, shape, .. } = tensor;
    let Some((experts, part)) = name.split_once(".experts.") else { return Ok(None) };
    let (matrix, field) = match part.rsplit_once('_') {
        Some((matrix @ ("gate_up_proj" | "down_proj"), "blocks")) => (matrix, "weight"),
        Some((matrix @ ("gate_up_proj" | "down_proj"), "scales")) => (matrix, "scales"),
        Some((matrix @ ("gate_up_proj" | "down_proj"), "bias")) => (matrix, "bias"),
        _ if matches!(part, "gate_up_proj" | "down_proj") => return Err(error(tensor, DENSE)),
        _ => return Ok(None),
    };
    let is_float = matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
    // As they are stored then: experts, outputs, and what an output has.
    let (dtype, [count, outputs], row) = match (field, &shape[..]) {
        ("weight", &[count, outputs, blocks, bytes]) if *dtype == Dtype::U8 && bytes == BLOCK.1 => {
            (Dtype::U32, [count, outputs], Some(blocks.saturating_mul(BLOCK.1 / 4)))
        }
        ("scales", &[count, outputs, blocks]) if *dtype == Dtype::U8 => {
            (Dtype::U8, [count, outputs], Some(blocks))
        }
        ("bias", &[count, outputs]) if is_float => (*dtype, [count, outputs], None),
        _ => return Err(error(tensor, &format!("it is {dtype} {shape:?}; {EXPECTED}"))),
    };
    let conversion = |matrix: &str, outputs, change| Conversion {
        source: name.clone(),
        name: format!("{experts}.experts.{matrix}.{field}"),
        shape: [count, outputs].into_iter().chain(row).collect(),
        offset: tensor.offset,
        len: tensor.len,
        change,
        unpermute: None,
    };
    if matrix == "down_proj" {
        return Ok(Some(vec![conversion(matrix, outputs, Change::Copy(dtype))]));
    }
    let pairs = count.saturating_mul(outputs / 2);
    if outputs % 2 != 0 || pairs == 0 || tensor.len == 0 {
        return Err(error(tensor, "it has no gate and up for each output"));
    }
    let half = |matrix, second| {
        conversion(matrix, outputs / 2, Change::Alternate { dtype, pair: tensor.len / pairs, second })
    };
    Ok(Some(vec![half("gate_proj", false), half("up_proj", true)]))
}

const EXPECTED: &str = "blocks are U8 [experts, outputs, blocks, 16], scales U8 [experts, outputs, blocks] and biases floats \
                        [experts, outputs]";

const DENSE: &str = "dense experts in transformers' order can't be imported; import OpenAI's own files, or a conversion from \
                     mlx-community";

fn error(tensor: &HeaderTensor, reason: &str) -> String {
    format!("tensor `{}`: {reason}", tensor.name)
}
