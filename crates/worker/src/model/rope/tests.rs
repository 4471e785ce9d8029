use mlx_rs::transforms::eval;

use super::*;

const ARGS: RopeArgs = RopeArgs { traditional: false, base: 500.0, scaling: RopeScaling::Plain };
const STRETCHED: RopeScaling =
    RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, old_context: 40.0 };

fn values(array: &Array) -> Vec<f32> {
    eval([array]).unwrap_or_else(|error| panic!("{error}"));
    array.as_slice::<f32>().to_vec()
}

#[test]
fn a_table_grows_and_keeps_what_it_had() {
    let rope = Rope::new(16, &ARGS, 5000);
    let (cos, sin) = rope.table(3);
    assert_eq!((cos.shape(), sin.shape()), (&[1024, 8][..], &[1024, 8][..]));
    let (longer, _) = rope.table(1025);
    assert_eq!(longer.shape(), [2048, 8]);
    assert_eq!(values(&longer)[..1024 * 8], values(&cos));
    assert_eq!(rope.table(2048).0.shape(), [2048, 8]);
    assert_eq!(rope.table(4097).0.shape(), [5000, 8], "the context is the longest there is");
}

#[test]
fn a_position_is_an_angle_over_the_wavelength() {
    let rope = Rope::new(4, &RopeArgs { base: 100.0, ..ARGS }, 16);
    let (cos, sin) = rope.table(3);
    let of_second = &values(&cos)[2 * 2..2 * 3];
    assert_eq!(of_second, [2.0_f64.cos() as f32, 0.2_f64.cos() as f32]);
    assert_eq!(values(&sin)[2 * 2], 2.0_f64.sin() as f32);
    let halved =
        Rope::new(4, &RopeArgs { base: 100.0, scaling: RopeScaling::Linear { factor: 2.0 }, ..ARGS }, 16);
    assert_eq!(values(&halved.table(5).0)[2 * 4..2 * 5], *of_second);
}

#[test]
fn long_wavelengths_are_stretched_and_short_ones_are_not() {
    let stretched = RopeArgs { scaling: STRETCHED, ..ARGS }.llama3_wavelengths(64);
    let plain = ARGS.llama3_wavelengths(64);
    let ratios: Vec<f64> = stretched.iter().zip(&plain).map(|(a, b)| a / b).collect();
    assert_eq!((ratios[0], ratios[31]), (1.0, 8.0));
    assert!(ratios.windows(2).all(|pair| pair[0] <= pair[1]), "{ratios:?}");
}
