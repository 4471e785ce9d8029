//! What is done with each row by itself, with MLX's operations.

use mlx_rs::{
    Array, Dtype,
    error::Exception,
    fast,
    ops::{concatenate, erf, indexing::TryIndexOp, tanh},
};

use super::super::{Norm, NormKind, Rowwise};

pub(crate) fn rowwise(job: &Rowwise<'_>) -> Result<Array, Exception> {
    let mut y = normed(job)?;
    if job.gelu {
        let dtype = y.dtype();
        let half = number(0.5, dtype)?;
        let share = erf(y.multiply(number(std::f32::consts::FRAC_1_SQRT_2, dtype)?)?)?;
        y = y.multiply(share.multiply(&half)?.add(&half)?)?;
    }
    if job.factor != 1.0 {
        y = y.multiply(number(job.factor, y.dtype())?)?;
    }
    if let Some(cap) = job.soft_cap {
        let cap = number(cap, y.dtype())?;
        y = tanh(y.divide(&cap)?)?.multiply(&cap)?;
    }
    job.residual.map_or(Ok(y.clone()), |residual| residual.add(&y))
}

/// Normalizes along the last axis.
pub(super) fn normalized(x: &Array, norm: &Norm) -> Result<Array, Exception> {
    match norm.kind {
        NormKind::Rms | NormKind::RmsPlusOne => fast::rms_norm(x, Some(&norm.weight), norm.eps),
        NormKind::Layer => fast::layer_norm(x, Some(&norm.weight), norm.bias.as_ref(), norm.eps),
    }
}

/// A number in the type of what it meets: another type would change that of the result.
pub(super) fn number(value: f32, dtype: Dtype) -> Result<Array, Exception> {
    Array::from_f32(value).as_dtype(dtype)
}

fn normed(job: &Rowwise<'_>) -> Result<Array, Exception> {
    let (rows, width) = (job.x.dim(0), job.x.dim(1));
    let mut pieces = Vec::with_capacity(job.norms.len() + 1);
    let mut from = 0;
    for (norm, count) in job.norms {
        let to = from + norm.weight.dim(0) * count;
        let piece = if (from, to) == (0, width) { job.x.clone() } else { job.x.try_index((.., from..to))? };
        let normed = normalized(&piece.reshape(&[rows, *count, norm.weight.dim(0)])?, norm)?;
        pieces.push(normed.reshape(&[rows, to - from])?);
        from = to;
    }
    if from < width {
        pieces.push(if from == 0 { job.x.clone() } else { job.x.try_index((.., from..))? });
    }
    match &pieces[..] {
        [one] => Ok(one.clone()),
        several => concatenate(several, -1),
    }
}
