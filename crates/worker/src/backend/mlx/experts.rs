//! Experts with MLX's operations, which take a matrix by its index for each vector.

use mlx_rs::{
    Array, Dtype,
    error::Exception,
    ops::{argsort, gather_mm, gather_qmm, indexing::take_axis},
};

use super::{
    super::{Matrix, Mix, Storage},
    gated_product,
    routing::choose,
};

/// From so many vectors on they are sorted by their experts, so that each matrix is read once.
const WORTH_SORTING: i32 = 64;

pub(crate) fn mix(job: &Mix<'_>, [gate, up, down]: &[Matrix; 3]) -> Result<Array, Exception> {
    let (rule, tokens, width) = (job.routing.rule, job.x.dim(0), job.x.dim(1));
    let chosen = rule.chosen;
    let (which, weights) = choose(&job.routing)?;
    let weights = weights.as_dtype(job.x.dtype())?;
    let is_sorted = tokens * chosen >= WORTH_SORTING;
    // Of each vector its token and its expert.
    let which = which.reshape(&[-1])?.as_dtype(Dtype::Uint32)?;
    let (order, which) = if is_sorted {
        let order = argsort(&which)?;
        let sorted = take_axis(&which, &order, 0)?;
        (Some(order), sorted)
    } else {
        (None, which)
    };
    let mut x = match &order {
        Some(order) => {
            let tokens = order.as_dtype(Dtype::Int32)?.floor_divide(Array::from_int(chosen))?;
            take_axis(job.x, tokens.as_dtype(Dtype::Int32)?, 0)?.reshape(&[-1, 1, width])?
        }
        None => {
            let repeated = job.x.reshape(&[tokens, 1, width])?;
            mlx_rs::ops::broadcast_to(&repeated, &[tokens, chosen, width])?.reshape(&[-1, 1, width])?
        }
    };
    if rule.weighs_inputs {
        let weights = weights.reshape(&[-1])?;
        let weights = match &order {
            Some(order) => take_axis(&weights, order, 0)?,
            None => weights,
        };
        x = x.multiply(weights.reshape(&[-1, 1, 1])?)?;
    }
    let product = |x: &Array, matrix: &Matrix| multiply(x, matrix, &which, is_sorted);
    let inner = gated_product(job.gate, &product(&x, gate)?, &product(&x, up)?)?;
    let mut y = product(&inner, down)?.reshape(&[tokens * chosen, -1])?;
    if let Some(order) = &order {
        y = take_axis(&y, argsort(order)?, 0)?;
    }
    y = y.reshape(&[tokens, chosen, -1])?;
    if !rule.weighs_inputs {
        y = y.multiply(weights.expand_dims(-1)?)?;
    }
    let y = y.sum_axis(1, false)?;
    job.residual.map_or(Ok(y.clone()), |residual| residual.add(&y))
}

/// `[vectors, 1, outputs]` of `x` `[vectors, 1, inputs]` and the matrix of each, by its index.
fn multiply(x: &Array, matrix: &Matrix, which: &Array, is_sorted: bool) -> Result<Array, Exception> {
    let y = match &matrix.storage {
        // On a CPU MLX has this for float32 only.
        Storage::Dense(weight) if cfg!(not(target_os = "macos")) => {
            let (x, weight) = (x.as_dtype(Dtype::Float32)?, weight.as_dtype(Dtype::Float32)?);
            gather_mm(&x, weight.swap_axes(-1, -2)?, None, which, is_sorted)?
        }
        Storage::Dense(weight) => gather_mm(x, weight.swap_axes(-1, -2)?, None, which, is_sorted)?,
        Storage::Affine { packed, scales, biases, group_size, bits } => {
            gather_qmm(x, packed, scales, biases, None, which, true, *group_size, *bits, is_sorted)?
        }
        Storage::MicroScaled { packed, scales, format } => {
            format.multiply_gathered(x, (packed, scales), which, is_sorted)?
        }
    };
    let y = y.as_dtype(matrix.dtype)?;
    let Some(bias) = &matrix.bias else { return Ok(y) };
    y.add(take_axis(bias, which, 0)?.expand_dims(1)?)
}
