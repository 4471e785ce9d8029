//! Choosing experts with MLX's operations.

use mlx_rs::{
    Array, Dtype,
    error::Exception,
    ops::{
        arange, argpartition_axis, expand_dims,
        indexing::{TryIndexOp, take_along_axis, take_axis},
        select, sigmoid, softmax_axis, sort_axis,
    },
};

use super::super::routing::{Groups, Routing, Scores};

/// Indices `[tokens, chosen]`, and float32 weights like them.
pub(super) fn choose(routing: &Routing<'_>) -> Result<(Array, Array), Exception> {
    let Routing { router, rule, correction, factors } = routing;
    let outputs = router.as_dtype(Dtype::Float32)?;
    let scores = match rule.scores {
        Scores::Softmax => softmax_axis(&outputs, -1, true)?,
        Scores::Sigmoid => sigmoid(&outputs)?,
    };
    let mut compared = match correction {
        Some(correction) => scores.add(correction)?,
        None => scores.clone(),
    };
    if let Some(groups) = rule.groups {
        compared = of_best_groups(&compared, groups)?;
    }
    let which = largest(&compared, rule.chosen)?;
    let mut weights = take_along_axis(&scores, &which, -1)?;
    if rule.normalized {
        let sum = weights.sum_axis(-1, true)?;
        weights = weights.divide(match rule.scores {
            Scores::Softmax => sum,
            Scores::Sigmoid => sum.add(Array::from_f32(rule.least_sum))?,
        })?;
    }
    if rule.factor != 1.0 {
        weights = weights.multiply(Array::from_f32(rule.factor))?;
    }
    if let Some(factors) = factors {
        weights = weights.multiply(take_axis(factors, &which, 0)?)?;
    }
    Ok((which, weights))
}

/// Indices of the largest values of each row.
fn largest(values: &Array, count: i32) -> Result<Array, Exception> {
    argpartition_axis(values.negative()?, count - 1, -1)?.try_index((.., ..count))
}

/// `compared` `[tokens, experts]`, and minus infinity for experts of groups that are left out.
fn of_best_groups(compared: &Array, groups: Groups) -> Result<Array, Exception> {
    let (tokens, experts) = (compared.dim(0), compared.dim(1));
    let grouped = compared.reshape(&[tokens, groups.count, experts / groups.count])?;
    let sorted = sort_axis(&grouped, -1)?;
    let best = sorted.try_index((.., .., experts / groups.count - groups.best..))?.sum_axis(-1, false)?;
    let kept = expand_dims(largest(&best, groups.chosen)?.as_dtype(Dtype::Int32)?, -1)?;
    let is_kept = kept.eq(arange::<_, i32>(0, groups.count, None)?)?.any_axis(1, false)?.expand_dims(-1)?;
    select(&is_kept, &grouped, Array::from_f32(f32::NEG_INFINITY))?.reshape(&[tokens, experts])
}
