//! Keys and values of one sequence.

use mlx_rs::{
    Array, Dtype,
    error::Exception,
    ops::{
        concatenate,
        indexing::{TryIndexMutOp, TryIndexOp},
        zeros_dtype,
    },
};

/// Room is added for so many tokens at a time.
const GROWTH: usize = 256;

/// What attention remembers of a sequence, in every layer: `[1, kv_heads, room, head_dim]` keys
/// and values, of which the first `len` tokens count.
///
/// Appending writes in place: between steps nothing else refers to an array, so MLX takes its
/// memory for the result instead of copying it.
pub struct SequenceKv {
    layers: Vec<LayerKv>,
    len: usize,
    kv_heads: i32,
    head_dim: i32,
}

#[derive(Default)]
struct LayerKv {
    /// `None` before the first token.
    keys_values: Option<(Array, Array)>,
}

impl SequenceKv {
    pub(super) fn new(layers: usize, kv_heads: i32, head_dim: i32) -> Self {
        let layers = std::iter::repeat_with(LayerKv::default).take(layers).collect();
        Self { layers, len: 0, kv_heads, head_dim }
    }

    /// Tokens that the sequence has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the sequence has no tokens.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes allocated, room for coming tokens included.
    pub fn byte_size(&self) -> u64 {
        self.arrays().map(|array| array.nbytes() as u64).sum()
    }

    /// Forgets every token from `len` on. The room stays allocated.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Puts new keys and values, `[1, kv_heads, new, head_dim]`, behind the `len` tokens of a
    /// layer, and returns views of everything up to them. [`advance`](Self::advance) counts them
    /// once every layer has them.
    pub(super) fn append(
        &mut self,
        layer: usize,
        keys: &Array,
        values: &Array,
    ) -> Result<(Array, Array), Exception> {
        let start = self.len as i32;
        let end = start + keys.dim(2);
        let enough = (end as usize).next_multiple_of(GROWTH) as i32;
        let (mut all_keys, mut all_values) = match self.layers[layer].keys_values.take() {
            None => (self.room(enough, keys.dtype())?, self.room(enough, values.dtype())?),
            Some((old_keys, old_values)) if old_keys.dim(2) < end => {
                let more = enough - old_keys.dim(2);
                let keys = concatenate(&[&old_keys, &self.room(more, keys.dtype())?], 2)?;
                let values = concatenate(&[&old_values, &self.room(more, values.dtype())?], 2)?;
                (keys, values)
            }
            Some(kept) => kept,
        };
        all_keys.try_index_mut((.., .., start..end, ..), keys)?;
        all_values.try_index_mut((.., .., start..end, ..), values)?;
        let views = (all_keys.try_index((.., .., ..end, ..))?, all_values.try_index((.., .., ..end, ..))?);
        self.layers[layer].keys_values = Some((all_keys, all_values));
        Ok(views)
    }

    /// Counts `tokens` that were appended to every layer.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// The arrays that a step has changed and has to evaluate.
    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers.iter().filter_map(|layer| layer.keys_values.as_ref()).flat_map(|(k, v)| [k, v])
    }

    fn room(&self, tokens: i32, dtype: Dtype) -> Result<Array, Exception> {
        zeros_dtype(&[1, self.kv_heads, tokens, self.head_dim], dtype)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mlx_rs::transforms::eval;

    use super::*;

    fn append(kv: &mut SequenceKv, value: f32, tokens: i32) {
        let new = Array::full::<f32>(&[1, 2, tokens, 4], Array::from_f32(value)).unwrap();
        let (keys, values) = kv.append(0, &new, &new).unwrap();
        assert_eq!(keys.shape(), [1, 2, kv.len() as i32 + tokens, 4]);
        // As in a step: the views are used, evaluated, and gone before the next.
        eval([&keys, &values].into_iter().chain(kv.arrays())).unwrap();
        kv.advance(tokens as usize);
    }

    fn addresses(kv: &SequenceKv) -> Vec<usize> {
        kv.arrays().map(|array| array.as_slice::<f32>().as_ptr().addr()).collect()
    }

    #[test]
    fn appending_writes_in_place_until_the_room_is_full() {
        mlx_ext::init().unwrap();
        let mut kv = SequenceKv::new(1, 2, 4);
        append(&mut kv, 1.0, 250);
        let before = addresses(&kv);
        for token in 0..6 {
            append(&mut kv, 2.0 + token as f32, 1);
            assert_eq!(addresses(&kv), before, "copied at token {}", kv.len());
        }
        append(&mut kv, 9.0, 1);
        assert_ne!(addresses(&kv), before, "257 tokens do not fit into 256");
        let keys = kv.arrays().next().unwrap();
        assert_eq!(keys.shape(), [1, 2, 512, 4]);
        let first_head: Vec<f32> = keys.as_slice::<f32>().chunks(4).take(258).map(|token| token[3]).collect();
        assert!(first_head[..250].iter().all(|&value| value == 1.0));
        assert_eq!(first_head[250..], [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0, 0.0]);
    }
}
