#![allow(clippy::unwrap_used)]

use mlx_rs::transforms::eval;

use super::*;

fn sequence() -> ContiguousSequence {
    mlx_ext::init().unwrap();
    let heads = Heads { queries: 2, kv: 2, dim: 8 };
    ContiguousSequence { layers: vec![None], heads, dtype: Dtype::Float32, appending: false }
}

/// As a step does: the views are used, evaluated, and gone before the next.
fn append(sequence: &mut ContiguousSequence, start: i32, value: f32, tokens: i32) {
    let new = Array::full::<f32>(&[1, 2, tokens, 8], Array::from_f32(value)).unwrap();
    let (keys, values) = sequence.append(0, start, &new, &new).unwrap();
    assert_eq!(keys.shape(), [1, 2, start + tokens, 8]);
    eval([&keys, &values].into_iter().chain(sequence.arrays())).unwrap();
    sequence.commit();
}

fn addresses(sequence: &ContiguousSequence) -> Vec<usize> {
    sequence.arrays().map(|array| array.as_slice::<f32>().as_ptr().addr()).collect()
}

/// A component of each of the first head's tokens.
fn first_head(sequence: &ContiguousSequence, tokens: usize) -> Vec<f32> {
    let keys = sequence.arrays().next().unwrap();
    keys.as_slice::<f32>().chunks(8).take(tokens).map(|token| token[3]).collect()
}

#[test]
fn appending_writes_in_place_until_the_room_is_full() {
    let mut sequence = sequence();
    append(&mut sequence, 0, 1.0, 250);
    let before = addresses(&sequence);
    for token in 0..6 {
        append(&mut sequence, 250 + token, 2.0 + token as f32, 1);
        assert_eq!(addresses(&sequence), before, "copied at token {token}");
    }
    append(&mut sequence, 256, 9.0, 1);
    assert_ne!(addresses(&sequence), before, "257 tokens do not fit into 256");
    assert_eq!(sequence.arrays().next().unwrap().shape(), [1, 2, 512, 8]);
    let found = first_head(&sequence, 258);
    assert!(found[..250].iter().all(|&value| value == 1.0));
    assert_eq!(found[250..], [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0, 0.0]);
}

#[test]
fn a_fork_and_its_origin_do_not_see_each_other_s_tokens() {
    let mut first = sequence();
    append(&mut first, 0, 1.0, 3);
    let mut second = first.fork(3);
    append(&mut second, 3, 2.0, 1);
    append(&mut first, 2, 3.0, 2);
    assert_eq!(first_head(&first, 5), [1.0, 1.0, 3.0, 3.0, 0.0]);
    assert_eq!(first_head(&second, 5), [1.0, 1.0, 1.0, 2.0, 0.0]);
}

#[test]
fn a_window_is_a_band_of_the_mask() {
    mlx_ext::init().unwrap();
    let mask = window_mask(2, 3, 4).unwrap();
    eval([&mask]).unwrap();
    let (no, yes) = (false, true);
    assert_eq!(mask.as_slice::<bool>(), [yes, yes, no, no, no, yes, yes, no, no, no, yes, yes]);
}
