#![allow(clippy::unwrap_used)]

use mlx_rs::transforms::eval;

use super::*;

#[test]
fn a_window_is_a_band_of_the_mask() {
    mlx_ext::init().unwrap();
    let spec = AttentionSpec::causal(Heads { queries: 2, kv: 1, dim: 8 }, None);
    let spec = AttentionSpec { window: Some(2), ..spec };
    let band = mask(&spec, 3, 0..4).unwrap();
    let chunks = mask(&AttentionSpec { chunked: true, ..spec }, 3, 0..4).unwrap();
    eval([&band, &chunks]).unwrap();
    let (no, yes) = (false, true);
    assert_eq!(band.as_slice::<bool>(), [yes, yes, no, no, no, yes, yes, no, no, no, yes, yes]);
    assert_eq!(chunks.as_slice::<bool>(), [yes, yes, no, no, no, no, yes, no, no, no, yes, yes]);
}

#[test]
fn each_head_of_a_row_sees_what_the_row_has() {
    mlx_ext::init().unwrap();
    let spec = AttentionSpec::causal(Heads { queries: 2, kv: 1, dim: 8 }, None);
    let (no, yes) = (false, true);
    let mask = seen_by(&spec, 1, &[2, 0], (0, 4)).unwrap();
    eval([&mask]).unwrap();
    assert_eq!(mask.shape(), [1, 4, 1, 4]);
    let (long, short) = ([yes, yes, yes, no], [yes, no, no, no]);
    assert_eq!(mask.as_slice::<bool>(), [long, long, short, short].concat());

    let windowed = AttentionSpec { window: Some(2), ..spec };
    let mask = seen_by(&windowed, 2, &[4, 5, 2, 3], (1, 6)).unwrap();
    eval([&mask]).unwrap();
    assert_eq!(mask.shape(), [1, 4, 2, 5]);
    let first = [[no, no, yes, yes, no], [no, no, no, yes, yes]].concat();
    let second = [[yes, yes, no, no, no], [no, yes, yes, no, no]].concat();
    assert_eq!(mask.as_slice::<bool>(), [&first[..], &first, &second, &second].concat());
}
