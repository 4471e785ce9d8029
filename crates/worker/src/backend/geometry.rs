//! Of what shape the keys and values of a model's layers are.

use super::Heads;
use crate::cache::BLOCK_TOKENS;

/// The shape of all layers' keys and values. Layers that are alike form a kind, which has its own blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KvGeometry {
    /// In the order of their first layers.
    kinds: Vec<LayerKind>,
    /// Of each layer that has attention, in order.
    places: Vec<LayerPlace>,
}

/// Layers whose keys and values are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerKind {
    /// How many there are.
    pub(crate) layers: i32,
    pub(crate) heads: KvHeads,
}

/// Heads of a layer's keys, and of its values: there are as many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KvHeads {
    /// How many.
    pub(crate) kv: i32,
    /// Components of each.
    pub(crate) dim: i32,
}

/// Where a layer's keys and values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerPlace {
    /// Index of its kind.
    pub(super) kind: usize,
    /// Which of the kind's layers it is.
    pub(super) layer: usize,
}

impl KvGeometry {
    /// Of these layers.
    pub(crate) fn new(layers: impl IntoIterator<Item = KvHeads>) -> Self {
        let (mut kinds, mut places) = (Vec::<LayerKind>::new(), Vec::new());
        for heads in layers {
            let kind = kinds.iter().position(|kind| kind.heads == heads).unwrap_or_else(|| {
                kinds.push(LayerKind { layers: 0, heads });
                kinds.len() - 1
            });
            places.push(LayerPlace { kind, layer: kinds[kind].layers.unsigned_abs() as usize });
            kinds[kind].layers += 1;
        }
        Self { kinds, places }
    }

    /// The kinds of layers.
    pub(crate) fn kinds(&self) -> &[LayerKind] {
        &self.kinds
    }

    /// Where each layer's keys and values are.
    pub(super) fn places(&self) -> &[LayerPlace] {
        &self.places
    }
}

impl LayerKind {
    /// Bytes of a block in all of its layers, if each component takes `value_bytes`; `u64::MAX` if they are more than that.
    pub(super) fn block_bytes(self, value_bytes: u64) -> u64 {
        let factors = [self.layers, self.heads.kv, self.heads.dim].map(|n| u64::from(n.unsigned_abs()));
        // Keys and values.
        factors.into_iter().fold(2 * BLOCK_TOKENS as u64 * value_bytes, u64::saturating_mul)
    }
}

impl From<Heads> for KvHeads {
    fn from(Heads { kv, dim, .. }: Heads) -> Self {
        Self { kv, dim }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_are_alike_have_their_places_in_one_kind() {
        let [narrow, wide] = [KvHeads { kv: 4, dim: 8 }, KvHeads { kv: 2, dim: 16 }];
        let geometry = KvGeometry::new([narrow, narrow, wide, narrow, wide]);
        let kinds = [LayerKind { layers: 3, heads: narrow }, LayerKind { layers: 2, heads: wide }];
        assert_eq!(geometry.kinds(), kinds);
        let places = geometry.places().iter().map(|place| (place.kind, place.layer));
        assert_eq!(places.collect::<Vec<_>>(), [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1)]);
        // As many components, but not the same blocks.
        assert_eq!(kinds[0].block_bytes(2), 3 * 2 * 32 * 32 * 2);
    }
}
