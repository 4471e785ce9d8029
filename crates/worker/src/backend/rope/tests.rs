#![allow(clippy::unwrap_used)]

use mlx_rs::transforms::eval;

use super::*;

fn rope(context: usize) -> Rope {
    mlx_ext::init().unwrap();
    Rope::new(vec![1.0, 0.1], false, context)
}

fn values(array: &Array) -> Vec<f32> {
    eval([array]).unwrap();
    array.as_slice::<f32>().to_vec()
}

#[test]
fn a_table_grows_and_keeps_what_it_had() {
    let rope = rope(5000);
    let first = rope.table(3);
    assert_eq!((first.cos.shape(), first.sin.shape()), (&[1024, 2][..], &[1024, 2][..]));
    let cos = values(&first.cos);
    drop(first);
    let longer = values(&rope.table(1025).cos);
    assert_eq!(longer.len(), 2 * 2048);
    assert_eq!(longer[..1024 * 2], cos);
    assert_eq!(rope.table(2048).positions(), 2048);
    assert_eq!(rope.table(4097).positions(), 5000, "the context is the longest there is");
}

#[test]
fn an_angle_is_the_position_times_the_inverse_frequency() {
    let rope = rope(16);
    let table = rope.table(3);
    assert_eq!(values(&table.cos)[2 * 2..2 * 3], [2.0_f64.cos() as f32, 0.2_f64.cos() as f32]);
    assert_eq!(values(&table.sin)[2 * 2..2 * 3], [2.0_f64.sin() as f32, 0.2_f64.sin() as f32]);
    assert_eq!(values(rope.reciprocals()), [1.0, 10.0]);
    assert_eq!(rope.dims(), 4);
    let doubled = Rope::new(vec![1.0, 0.1], false, 16).with_gain(2.0);
    assert_eq!(values(&doubled.table(3).cos)[2 * 2], (2.0 * 2.0_f64.cos()) as f32);
}

/// float32 would be off by a 500th of a radian there.
#[test]
fn late_positions_are_as_exact_as_early_ones() {
    mlx_ext::init().unwrap();
    let rope = Rope::new(vec![0.7], false, 200_000);
    let cos = values(&rope.table(100_001).cos);
    assert_eq!(cos[100_000], 70_000_f64.cos() as f32);
}
