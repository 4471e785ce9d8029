//! From the hidden states of a text's tokens to its embedding. Pure.

use artifact_store::Pooling;

/// One vector of `[tokens, width]` hidden states, of which there are some.
pub(super) fn pool(states: &[f32], width: usize, pooling: Pooling) -> Vec<f32> {
    let mut tokens = states.chunks_exact(width);
    match pooling {
        Pooling::FirstToken => tokens.next().map(<[f32]>::to_vec),
        Pooling::LastToken => tokens.next_back().map(<[f32]>::to_vec),
        Pooling::Mean => Some(mean(tokens, width)),
    }
    .unwrap_or_default()
}

/// Divides a vector by its length, unless that is zero.
pub fn normalize(vector: &mut [f32]) {
    let squares: f64 = vector.iter().map(|&value| f64::from(value).powi(2)).sum();
    let length = squares.sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
    }
}

/// In float64 and in order, so that it depends on nothing else.
fn mean<'a>(tokens: impl ExactSizeIterator<Item = &'a [f32]>, width: usize) -> Vec<f32> {
    let count = tokens.len().max(1) as f64;
    let mut sums = vec![0.0_f64; width];
    for token in tokens {
        sums.iter_mut().zip(token).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    sums.into_iter().map(|sum| (sum / count) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooled(pooling: Pooling, normalized: bool) -> Vec<f32> {
        let states = [3.0, 4.0, 0.0, 8.0, 0.0, -3.0];
        let mut vector = pool(&states, 2, pooling);
        if normalized {
            normalize(&mut vector);
        }
        vector
    }

    #[test]
    fn an_embedding_is_made_of_the_tokens_that_count() {
        assert_eq!(pooled(Pooling::FirstToken, false), [3.0, 4.0]);
        assert_eq!(pooled(Pooling::LastToken, false), [0.0, -3.0]);
        assert_eq!(pooled(Pooling::Mean, false), [1.0, 3.0]);
        assert_eq!(pooled(Pooling::FirstToken, true), [0.6, 0.8]);
        assert_eq!(pooled(Pooling::LastToken, true), [0.0, -1.0]);
    }

    #[test]
    fn nothing_has_no_length_to_divide_by() {
        let mut zeros = [0.0; 3];
        normalize(&mut zeros);
        assert_eq!(zeros, [0.0; 3]);
    }
}
