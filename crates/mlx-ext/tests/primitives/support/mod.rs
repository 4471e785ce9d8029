//! Random inputs, float64 references in MLX operations, and how far from those a result may be.

pub(crate) mod attention;
pub(crate) mod products;

use mlx_rs::{Array, Dtype, transforms::eval};
use proptest::{prelude::ProptestConfig, test_runner::FileFailurePersistence};

/// Half a unit in the last place of float32: the relative error of one rounding.
pub(crate) const ROUNDING: f64 = 1.0 / (1 << 24) as f64;

/// This many cases for each property, a part of them where other instruction sets have their turn.
pub(crate) fn cases(count: u32) -> ProptestConfig {
    let count = if std::env::var_os("KR_ISA").is_some() { count.div_ceil(4) } else { count };
    ProptestConfig {
        cases: count,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/primitives/regressions.txt"
        )))),
        ..ProptestConfig::default()
    }
}

/// A small generator of random numbers: a failing case is its seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        mlx_ext::init().unwrap();
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    pub(crate) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.bits() >> 40) as f32 / (1 << 24) as f32
    }

    /// Bell-shaped, of deviation 1.
    pub(crate) fn normal(&mut self) -> f32 {
        (0..3).map(|_| self.between(-1.0, 1.0)).sum()
    }

    pub(crate) fn normals(&mut self, shape: &[i32]) -> Array {
        self.array(shape, Self::normal)
    }

    pub(crate) fn array(&mut self, shape: &[i32], mut value: impl FnMut(&mut Self) -> f32) -> Array {
        let count = shape.iter().product::<i32>();
        let values: Vec<f32> = (0..count).map(|_| value(self)).collect();
        Array::from_slice(&values, shape)
    }

    /// float32 `[rows, inputs]` as a transformer's activations are: some far larger than the rest, some rows small,
    /// a few nothing but zeros.
    pub(crate) fn activations(&mut self, rows: i32, inputs: i32) -> Array {
        let mut values = Vec::with_capacity((rows * inputs) as usize);
        for _ in 0..rows {
            let size = [1.0, 1.0, 1.0, 30.0, 1e-4, 0.0][self.below(6)];
            values.extend((0..inputs).map(|_| {
                let outlier = if self.below(60) == 0 { 25.0 } else { 1.0 };
                size * outlier * self.normal()
            }));
        }
        Array::from_slice(&values, &[rows, inputs])
    }

    pub(crate) fn shuffled(&mut self, count: i32) -> Vec<i32> {
        let mut values: Vec<i32> = (0..count).collect();
        for i in (1..values.len()).rev() {
            values.swap(i, self.below(i + 1));
        }
        values
    }
}

/// A result in float64, and how far from it float32 arithmetic may end.
pub(crate) struct Expected {
    pub(crate) value: Array,
    pub(crate) error: Array,
}

impl Expected {
    /// The largest miss, as a part of what is allowed: beyond 1 is wrong. Shapes differ or something is not finite: so
    /// is that.
    pub(crate) fn miss(&self, found: &Array) -> f64 {
        assert_eq!(found.shape(), self.value.shape());
        // Results below float32's normal numbers count as 0.
        let allowed = &self.error + number(f64::from(f32::MIN_POSITIVE));
        let misses = (wide(found) - &self.value).abs().unwrap() / &allowed;
        let misses = misses.flatten(None, None).unwrap();
        eval([&misses]).unwrap();
        let worst = |worst: f64, miss: &f64| if miss.is_finite() { worst.max(*miss) } else { f64::INFINITY };
        misses.as_slice::<f64>().iter().fold(0.0, worst)
    }

    /// Panics if `found` is further away than allowed.
    #[track_caller]
    pub(crate) fn check(&self, found: &Array) {
        let miss = self.miss(found);
        assert!(miss <= 1.0, "off by {miss:.2} times what roundings explain");
    }
}

pub(crate) fn wide(array: &Array) -> Array {
    array.as_dtype(Dtype::Float64).unwrap()
}

/// A float64 scalar.
pub(crate) fn number(value: f64) -> Array {
    Array::from_slice_f64(&[value], &[])
}

/// e to the `x`. MLX's `exp` computes in float32, even for float64.
pub(crate) fn exponential(x: &Array) -> Array {
    number(std::f64::consts::E).power(x).unwrap()
}

/// `a bᵀ` of the last two axes.
pub(crate) fn product(a: &Array, b: &Array) -> Array {
    a.matmul(b.swap_axes(-1, -2).unwrap()).unwrap()
}

/// The bits of an evaluated float32 array.
pub(crate) fn bits(array: &Array) -> Vec<u32> {
    let flat = array.flatten(None, None).unwrap();
    eval([&flat]).unwrap();
    flat.as_slice::<f32>().iter().map(|value| value.to_bits()).collect()
}
