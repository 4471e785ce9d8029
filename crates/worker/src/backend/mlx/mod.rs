//! MLX's operations, in the model's own float type: for the GPU. Nothing else names `mlx_rs::fast`.

mod array_blocks;
mod attention;
mod between;
mod experts;
mod gated_delta;
mod gathered;
mod group;
mod grouping;
mod heads;
mod packed;
mod recurrent;
mod routing;
mod rowwise;
mod sample;
mod states;
mod step;

use mlx_rs::{
    Array, Dtype,
    error::Exception,
    ops::{concatenate, dequantize, indexing::take_axis, maximum, minimum, quantized_matmul, sigmoid},
};

pub(super) use experts::mix;
pub(crate) use gathered::{GatheredKv, GatheredSequence};
pub(super) use heads::head_products;
pub(crate) use packed::PackedInputs;
pub(super) use recurrent::{columns, gated};
pub(super) use rowwise::rowwise;
pub(crate) use sample::choose;
pub(crate) use states::{MlxStateStep, MlxStates};
pub(crate) use step::GatheredStep;

use rowwise::{normalized, number};

use super::{Gate, Linear, Matrix, Storage};

/// MLX compiles nothing here, so each operation is a kernel of its own.
pub(super) fn linear(job: &Linear<'_>) -> Result<Array, Exception> {
    let normed = job.norm.map(|norm| normalized(job.x, norm)).transpose()?;
    let x = normed.as_ref().unwrap_or(job.x);
    let products: Vec<Array> =
        job.matrices.iter().map(|matrix| multiply(x, matrix)).collect::<Result<_, _>>()?;
    let y = match (&products[..], job.gate) {
        ([gate, up], Some(activation)) => gated_product(activation, gate, up)?,
        ([one], _) => one.clone(),
        (several, _) => concatenate(several, -1)?,
    };
    job.residual.map_or(Ok(y.clone()), |residual| residual.add(&y))
}

/// Of rows `[gate, up]`.
pub(super) fn gate_up(product: &Array, activation: Gate) -> Result<Array, Exception> {
    let halves = product.split_equal(2, -1)?;
    let [gate, up] = &halves[..] else { return Err(Exception::custom("a product has no gate")) };
    gated_product(activation, gate, up)
}

/// `activation(x) * up`.
fn gated_product(activation: Gate, x: &Array, up: &Array) -> Result<Array, Exception> {
    match activation {
        Gate::Silu => x.multiply(sigmoid(x)?)?.multiply(up),
        Gate::GeluTanh => gelu_tanh(x)?.multiply(up),
        Gate::SwigluOai => {
            let (least, most) = (number(-7.0, x.dtype())?, number(7.0, x.dtype())?);
            let x = minimum(x, &most)?;
            let up = maximum(minimum(up, &most)?, least)?;
            let activated = x.multiply(sigmoid(x.multiply(number(1.702, x.dtype())?)?)?)?;
            activated.multiply(up.add(number(1.0, x.dtype())?)?)
        }
    }
}

/// x (1 + tanh(u)) / 2 is x sigmoid(2u), with u = sqrt(2/pi) (x + 0.044715 x^3).
fn gelu_tanh(x: &Array) -> Result<Array, Exception> {
    let cube = x.multiply(x)?.multiply(x)?;
    let inner = x.add(cube.multiply(number(0.044_715, x.dtype())?)?)?;
    x.multiply(sigmoid(inner.multiply(number(1.595_769, x.dtype())?)?)?)
}

pub(super) fn embedding(matrix: &Matrix, tokens: &Array) -> Result<Array, Exception> {
    let of = |array: &Array| take_axis(array, tokens, 0);
    match &matrix.storage {
        Storage::Dense(weight) => of(weight)?.as_dtype(matrix.dtype),
        Storage::Affine { packed, scales, biases, group_size, bits } => {
            // The result has the scales' type, and is rounded to it.
            let (scales, biases) = (of(scales)?.as_dtype(matrix.dtype)?, of(biases)?.as_dtype(matrix.dtype)?);
            dequantize(of(packed)?, scales, &biases, *group_size, *bits)
        }
        Storage::MicroScaled { packed, scales, format } => {
            format.dequantize(&of(packed)?, &of(scales)?, matrix.dtype)
        }
    }
}

/// Small floats as bfloat16, which holds their products with their scales exactly, and takes two to four times their
/// memory; anything else as it is.
pub(super) fn widened(storage: Storage) -> Result<Storage, Exception> {
    let Storage::MicroScaled { packed, scales, format } = storage else { return Ok(storage) };
    let values = format.dequantize(&packed, &scales, Dtype::Bfloat16)?;
    values.eval()?;
    Ok(Storage::Dense(values))
}

/// A matrix in float32. Takes memory; but MLX's product with packed weights is, on a CPU, a hundred times slower.
pub(super) fn expanded(storage: Storage) -> Result<Storage, Exception> {
    Ok(Storage::Dense(match storage {
        Storage::Dense(weight) => weight.as_dtype(Dtype::Float32)?,
        Storage::Affine { packed, scales, biases, group_size, bits } => {
            let (scales, biases) = (scales.as_dtype(Dtype::Float32)?, biases.as_dtype(Dtype::Float32)?);
            dequantize(packed, scales, &biases, group_size, bits)?
        }
        Storage::MicroScaled { packed, scales, format } => {
            format.dequantize(&packed, &scales, Dtype::Float32)?
        }
    }))
}

fn multiply(x: &Array, matrix: &Matrix) -> Result<Array, Exception> {
    let y = match &matrix.storage {
        Storage::Dense(weight) => x.matmul(weight.t())?,
        Storage::Affine { packed, scales, biases, group_size, bits } => {
            quantized_matmul(x, packed, scales, biases, true, *group_size, *bits)?
        }
        Storage::MicroScaled { packed, scales, format } => format.multiply(x, packed, scales)?,
    };
    // A matrix of another type than most must not change that of everything behind it.
    let y = y.as_dtype(matrix.dtype)?;
    matrix.bias.as_ref().map_or(Ok(y.clone()), |bias| y.add(bias))
}

/// Where an evaluated array of floats is.
#[cfg(test)]
fn address(array: &Array) -> usize {
    array.as_slice::<f32>().as_ptr().addr()
}
