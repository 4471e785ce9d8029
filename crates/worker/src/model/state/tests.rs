#![allow(clippy::unwrap_used)]

use mlx_rs::Dtype;

use super::*;
use crate::backend::{Heads, Kernels, KvDtype};

const BUDGET: KvBudget = KvBudget { bytes: 1 << 20, sequences: 2, dtype: KvDtype::Float32 };
const HEADS: Heads = Heads { queries: 4, kv: 2, dim: 8 };

/// Of the backend that this machine uses.
fn cache(layers: &[&AttentionSpec]) -> Result<KvCache, ModelError> {
    let kernels = Kernels::of(mlx_ext::init().unwrap());
    let backend = Backend::new(kernels, Dtype::Float32);
    Ok(KvCache::new(&geometry(layers, backend)?, &StateGeometry::default(), BUDGET, backend)?)
}

#[test]
fn attention_that_cannot_be_computed_is_refused_with_its_layer() {
    // MLX's attention takes heads of any size.
    let wide = AttentionSpec::causal(Heads { dim: 8192, ..HEADS }, None);
    let geometry_on = |kernels| geometry(&[&wide], Backend::new(kernels, Dtype::Float32));
    assert!(geometry_on(Kernels::Mlx).is_ok());
    let error = geometry_on(Kernels::Cpu).err().unwrap();
    assert!(matches!(error, ModelError::UnsupportedAttention { layer: 0, .. }));
    assert!(error.to_string().contains("layer 0 of the model has attention heads of this size"), "{error}");
}

#[test]
fn layers_have_heads_of_their_own() {
    let plain = AttentionSpec::causal(HEADS, None);
    let wider = AttentionSpec::causal(Heads { kv: 1, dim: 16, ..HEADS }, None);
    // Keys and values of 2 heads of 8, and of 1 head of 16, as float32.
    assert_eq!(cache(&[&plain]).unwrap().token_bytes(), 2 * 16 * 4);
    let (one, both) = (cache(&[&plain, &plain]).unwrap(), cache(&[&plain, &wider]).unwrap());
    assert_eq!((both.tokens(), both.token_bytes()), (one.tokens(), one.token_bytes()));
    assert_ne!(both.identity(), one.identity());
    assert!(matches!(cache(&[]).err(), Some(ModelError::NoLayers)));
}

#[test]
fn a_fork_is_as_long_as_asked_and_no_longer_than_its_origin() {
    let plain = AttentionSpec::causal(HEADS, None);
    let mut kv = cache(&[&plain]).unwrap().sequence();
    assert!(kv.is_empty());
    kv.advance(40);
    assert_eq!((kv.fork(33).len(), kv.fork(100).len()), (33, 40));
}
