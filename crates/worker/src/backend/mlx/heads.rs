//! Products of heads with MLX's operations: all heads' matrices in one product.

use mlx_rs::{
    Array,
    error::Exception,
    ops::{concatenate, indexing::TryIndexOp, quantized_matmul},
};

use super::super::{HeadProducts, Storage};

pub(in super::super) fn head_products(job: &HeadProducts<'_>) -> Result<Array, Exception> {
    let (tokens, heads) = (job.x.dim(0), job.heads);
    let x = job.x.reshape(&[tokens, heads, -1])?;
    // `[heads, tokens, inputs]`
    let inputs = x.try_index((.., .., job.inputs.clone()))?.swap_axes(0, 1)?;
    let part =
        |array: &Array| array.reshape(&[heads, -1, array.dim(-1)])?.try_index((.., job.rows.clone(), ..));
    let y = match &job.matrix.storage {
        Storage::Dense(weight) => inputs.matmul(part(weight)?.swap_axes(1, 2)?)?,
        Storage::Affine { packed, scales, biases, group_size, bits } => {
            let (packed, scales, biases) = (part(packed)?, part(scales)?, part(biases)?);
            quantized_matmul(&inputs, packed, scales, &biases, true, *group_size, *bits)?
        }
        Storage::MicroScaled { packed, scales, format } => {
            format.multiply(&inputs, &part(packed)?, &part(scales)?)?
        }
    };
    let y = y.as_dtype(job.matrix.dtype)?.swap_axes(0, 1)?;
    let copied = x.try_index((.., .., job.copied.clone()))?;
    let all = if job.copied.is_empty() { y } else { concatenate(&[copied, y], -1)? };
    all.reshape(&[tokens, -1])
}
