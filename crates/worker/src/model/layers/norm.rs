//! Normalizations of rows.

use mlx_rs::{Array, error::Exception, ops::ones};

use super::{ModelError, Weights};
use crate::backend::{Backend, Heads, Norm, NormKind, Rowwise};

/// What all normalizations of a model have in common.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct NormParams {
    pub(in crate::model) kind: NormKind,
    pub(in crate::model) eps: f32,
    /// Whether there is a bias beside the weight.
    pub(in crate::model) bias: bool,
}

/// A normalization over the last axis.
pub(in crate::model) struct Normalization {
    pub(super) norm: Norm,
    pub(super) backend: Backend,
}

/// The normalizations of a sublayer (attention or feed-forward network) with a residual connection:
/// `x + after(f(before(x)))`. What is absent is the identity.
#[derive(Default)]
pub(in crate::model) struct SublayerNorms {
    pub(in crate::model) before: Option<Normalization>,
    pub(in crate::model) after: Option<Normalization>,
}

/// How queries and keys are normalized before they are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum QkNorm {
    /// Each head by itself, all with the same weights.
    Heads,
    /// The same, and values each by itself without weights.
    HeadsAndValues,
    /// All heads of a token together.
    Whole,
    /// Each head by itself, without weights, in layers that rotate.
    Unweighted,
}

impl NormParams {
    /// RMS normalization.
    pub(in crate::model) fn rms(eps: f32) -> Self {
        Self { kind: NormKind::Rms, eps, bias: false }
    }

    /// The same with weights that are stored as their distance from 1.
    pub(in crate::model) fn rms_plus_one(eps: f32) -> Self {
        Self { kind: NormKind::RmsPlusOne, eps, bias: false }
    }

    /// Layer normalization.
    pub(in crate::model) fn layer(eps: f32, bias: bool) -> Self {
        Self { kind: NormKind::Layer, eps, bias }
    }
}

impl Normalization {
    /// Takes `<name>.weight`, `[width]`, and the bias if there is one.
    pub(in crate::model) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        width: i32,
        params: NormParams,
    ) -> Result<Self, ModelError> {
        let weight = weights.take_float(&format!("{name}.weight"), &[width])?;
        let bias = params.bias.then(|| weights.take_float(&format!("{name}.bias"), &[width])).transpose()?;
        Self::new(weights.backend(), params, &weight, bias.as_ref())
    }

    /// Of weights `[width]` as they are stored.
    pub(super) fn new(
        backend: Backend,
        params: NormParams,
        weight: &Array,
        bias: Option<&Array>,
    ) -> Result<Self, ModelError> {
        let norm = backend.norm(params.kind, weight, bias, params.eps)?;
        Ok(Self { norm, backend })
    }

    /// `x` and the result: `[tokens, width]`; lazy. A normalization before a single product belongs to the
    /// [`FusedLinear`](super::FusedLinear) instead.
    pub(in crate::model) fn forward(&self, x: &Array) -> Result<Array, Exception> {
        self.backend.rowwise(&Rowwise { norms: &[(&self.norm, 1)], ..Rowwise::of(x) })
    }
}

/// Of queries, and of keys and perhaps values behind them in the same rows.
pub(super) struct QkNorms {
    /// Of so many neighbouring pieces each.
    norms: Vec<(Normalization, i32)>,
    backend: Backend,
}

impl QkNorms {
    /// Takes the normalizations of queries and of keys by their names, if they have weights; of queries alone where there are
    /// no keys.
    pub(super) fn load(
        weights: &mut Weights<'_>,
        [query, key]: &[String; 2],
        (heads, has_keys): (Heads, bool),
        (of, params): (QkNorm, NormParams),
    ) -> Result<Self, ModelError> {
        let Heads { queries, kv, dim } = heads;
        let backend = weights.backend();
        let unweighted = || Normalization::new(backend, params, &ones::<f32>(&[dim])?, None);
        let mut load = |name: &str, heads: i32| match of {
            QkNorm::Heads | QkNorm::HeadsAndValues => {
                Ok((Normalization::load(weights, name, dim, params)?, heads))
            }
            QkNorm::Whole => Ok((Normalization::load(weights, name, heads * dim, params)?, 1)),
            QkNorm::Unweighted => unweighted().map(|norm| (norm, heads)),
        };
        let mut norms = vec![load(query, queries)?];
        if has_keys {
            norms.push(load(key, kv)?);
        }
        if has_keys && of == QkNorm::HeadsAndValues {
            norms.push((unweighted()?, kv));
        }
        Ok(Self { norms, backend })
    }

    /// `qkv` and the result: `[tokens, queries, keys and values]`; lazy.
    pub(super) fn forward(&self, qkv: &Array) -> Result<Array, Exception> {
        let norms: Vec<_> = self.norms.iter().map(|(norm, pieces)| (&norm.norm, *pieces)).collect();
        self.backend.rowwise(&Rowwise { norms: &norms, ..Rowwise::of(qkv) })
    }
}
