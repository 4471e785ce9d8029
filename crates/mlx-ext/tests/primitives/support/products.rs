//! Matrices as they are stored, and products with them in float64.

use mlx_ext::cpu::{self, Gate, Linear, Matrix, Quantization};
use mlx_rs::{
    Array, Dtype,
    ops::{concatenate, maximum, minimum},
    transforms::eval,
};

use super::{Expected, ROUNDING, Random, exponential, number, product, wide};

/// Types of weights, of scales and biases.
pub(crate) const FLOATS: [Dtype; 3] = [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16];

/// How a matrix is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Storage {
    Dense(Dtype),
    Affine { bits: i32, group: i32, scales: Dtype },
}

impl Storage {
    /// All that the primitives know.
    pub(crate) fn all() -> Vec<Self> {
        let affine = |bits, group| FLOATS.map(|scales| Self::Affine { bits, group, scales });
        let bits = [2, 3, 4, 5, 6, 8].into_iter();
        let quantized = bits.flat_map(|bits| [32, 64, 128].map(|group| affine(bits, group)));
        quantized.flatten().chain(FLOATS.map(Self::Dense)).collect()
    }

    /// Inputs come in multiples of it.
    pub(crate) fn group(self) -> i32 {
        match self {
            Self::Dense(_) => 1,
            Self::Affine { group, .. } => group,
        }
    }
}

/// A random matrix.
pub(crate) struct Weights {
    storage: Storage,
    outputs: i32,
    inputs: i32,
    stored: Array,
    scales: Option<(Array, Array)>,
    /// float32 `[outputs]`.
    pub(crate) bias: Option<Array>,
    /// What is stored, exactly: float64 `[outputs, inputs]`.
    pub(crate) values: Array,
    /// Size of what the kernels add up for a weight: `|scale| q + |bias|`, or its own.
    terms: Array,
}

impl Weights {
    pub(crate) fn new(random: &mut Random, storage: Storage, outputs: i32, inputs: i32) -> Self {
        match storage {
            Storage::Dense(dtype) => {
                let stored = random.normals(&[outputs, inputs]).as_dtype(dtype).unwrap();
                let values = wide(&stored);
                let terms = values.abs().unwrap();
                Self { storage, outputs, inputs, stored, scales: None, bias: None, values, terms }
            }
            Storage::Affine { bits, group, scales } => {
                let integers: Vec<u8> =
                    (0..outputs * inputs).map(|_| random.bits() as u8 >> (8 - bits)).collect();
                Self::affine(random, &integers, [outputs, inputs], bits, group, scales)
            }
        }
    }

    /// Of `integers` row by row, with random scales and biases.
    pub(crate) fn affine(
        random: &mut Random,
        integers: &[u8],
        [outputs, inputs]: [i32; 2],
        bits: i32,
        group: i32,
        dtype: Dtype,
    ) -> Self {
        let bit = |i: usize| u32::from(integers[i / bits as usize] >> (i % bits as usize) & 1);
        let word = |first: usize| (0..32).fold(0, |word, i| word | bit(first + i) << i);
        let words: Vec<u32> = (0..integers.len() * bits as usize).step_by(32).map(word).collect();
        let groups = [outputs, inputs / group];
        // Weights of about -1 to 1, like `quantize` makes them, and some groups of the other sign.
        let step = 2.0 / (1 << bits) as f32;
        let mut of_groups = |low: f32, high: f32| {
            let value =
                |random: &mut Random| if random.below(8) == 0 { -low } else { random.between(low, high) };
            random.array(&groups, value).as_dtype(dtype).unwrap()
        };
        let (scales, biases) = (of_groups(0.3 * step, step), of_groups(-1.0, -0.3));
        let spread = |array: &Array| wide(array).expand_dims(2).unwrap();
        let q = Array::from_slice(integers, &[outputs, inputs / group, group]);
        let scaled = spread(&scales) * wide(&q);
        let shape = [outputs, inputs];
        Self {
            storage: Storage::Affine { bits, group, scales: dtype },
            outputs,
            inputs,
            stored: Array::from_slice(&words, &[outputs, inputs * bits / 32]),
            bias: None,
            values: (&scaled + spread(&biases)).reshape(&shape).unwrap(),
            terms: (scaled.abs().unwrap() + spread(&biases).abs().unwrap()).reshape(&shape).unwrap(),
            scales: Some((scales, biases)),
        }
    }

    pub(crate) fn with_bias(mut self, random: &mut Random) -> Self {
        self.bias = Some(random.normals(&[self.outputs]));
        self
    }

    pub(crate) fn matrix(&self) -> Matrix<'_> {
        let quantization = match (&self.scales, self.storage) {
            (Some((scales, biases)), Storage::Affine { bits, group, .. }) => {
                Some(Quantization::Affine { scales, biases, group_size: group, bits })
            }
            _ => None,
        };
        Matrix { weight: &self.stored, quantization, bias: self.bias.as_ref() }
    }

    /// Rows of the matrix: `scale * q` and `+ bias` round once each, dense values not at all.
    pub(crate) fn rows(&self, tokens: &Array) -> Expected {
        let of = |array: &Array| mlx_rs::ops::indexing::take_axis(array, tokens, 0).unwrap();
        let roundings = if self.scales.is_some() { 2.0 } else { 0.0 };
        Expected { value: of(&self.values), error: of(&self.terms) * number(roundings * ROUNDING) }
    }

    /// `x Wᵀ (+ bias)` for an `x` that is itself only known up to its error.
    fn product(&self, x: &Expected, int8: bool) -> Expected {
        let x_size = x.value.abs().unwrap() + &x.error;
        let arithmetic = match self.storage {
            Storage::Dense(_) => self.dense_error(&x_size),
            Storage::Affine { group, bits, .. } => self.affine_error(&x_size, group, int8 && bits == 4),
        };
        let mut value = product(&x.value, &self.values);
        let mut error = arithmetic + product(&x.error, &self.values.abs().unwrap());
        if let Some(bias) = &self.bias {
            value += &wide(bias);
            error += &((value.abs().unwrap() + &error) * number(ROUNDING));
        }
        Expected { value, error }
    }

    /// Segments of 64 inputs are chains of multiply-adds, and then added up. A multiply-add rounds once, or twice where
    /// there is no instruction for it; no rounding is larger than that of the sum of all sizes.
    fn dense_error(&self, x_size: &Array) -> Array {
        let roundings = 2 * self.inputs.min(64) + self.inputs / 64 + 2;
        product(x_size, &self.terms) * number(f64::from(roundings) * ROUNDING)
    }

    /// Two parts. Activations become `s r` with integers r and a group's step `s = max |x| / 32767`: each is off by half
    /// a step (and 0.004 of one, since the quotient that is rounded comes from float32), which meets its weight. What
    /// follows is exact inside a group; over the groups it is a chain of two multiply-adds each, whose terms are
    /// `scale s Σ q r` and `bias s Σ r` with three more roundings in each.
    fn affine_error(&self, x_size: &Array, group: i32, int8: bool) -> Array {
        let (rows, groups) = (x_size.dim(0), self.inputs / group);
        let in_groups = |array: &Array, rows: i32| array.reshape(&[rows, groups, group]).unwrap();
        let x = in_groups(x_size, rows);
        let steps = x.max_axis(2, true).unwrap() * number(1.0 / if int8 { 127.0 } else { 32767.0 });
        let weights = in_groups(&self.values.abs().unwrap(), self.outputs).sum_axis(2, false).unwrap();
        let rounded = product(&steps.reshape(&[rows, groups]).unwrap(), &weights) * number(0.505);

        let sizes = (x + steps * number(0.505)).reshape(&[rows, self.inputs]).unwrap();
        let chain = if int8 { self.inputs / 32 } else { groups };
        let roundings = 4 * chain + 4;
        rounded + product(&sizes, &self.terms) * number(f64::from(roundings) * ROUNDING)
    }
}

/// What `cpu::linear` computes, in float64.
pub(crate) fn expected(job: &Linear<'_>, weights: &[Weights]) -> Expected {
    let x = wide(job.x);
    let mut x = Expected { error: &x * number(0.0), value: x };
    if let Some((weight, eps)) = job.norm {
        x = normalized(&x.value, weight, eps);
    }
    let products: Vec<Expected> = weights.iter().map(|weights| weights.product(&x, job.int8)).collect();
    let mut y = match (&products[..], job.gate) {
        ([gate, up], Some(function)) => gated(function, gate, up),
        (products, _) => {
            let all = |part: fn(&Expected) -> &Array| {
                concatenate(&products.iter().map(part).collect::<Vec<_>>(), 1).unwrap()
            };
            Expected { value: all(|it| &it.value), error: all(|it| &it.error) }
        }
    };
    if let Some(residual) = job.residual {
        y.value += &wide(residual);
        y.error += &((y.value.abs().unwrap() + &y.error) * number(ROUNDING));
    }
    y
}

/// The squares of a row grow in at least eight chains, of two roundings a square; the root halves their error. The mean,
/// epsilon, root, quotient and the two products round once each.
pub(crate) fn normalized(x: &Array, weight: &Array, eps: f32) -> Expected {
    let mean = (x * x).mean_axis(1, true).unwrap() + number(f64::from(eps));
    let value = x / mean.sqrt().unwrap() * wide(weight);
    let squares = roundings_of_a_sum(x.dim(1)); // twice, and halved by the root
    let error = value.abs().unwrap() * number((f64::from(squares) + 6.0) * ROUNDING);
    Expected { value, error }
}

/// Of what is added up in at least eight chains: theirs, those of adding them up, and of what fills no vector.
pub(crate) fn roundings_of_a_sum(count: i32) -> i32 {
    count / 8 + 24
}

/// `activation(gate) * up`. Both activations are a quotient of the gate and 1 + e^power, and nowhere rise faster than 1.2.
/// The exponential is off by about one unit in the last place, and by what its power is off: silu's is exact, gelu's has
/// up to six roundings. An addition, a quotient and the product follow: eight roundings are ample. Where e^power would leave
/// float32, at 88, both stop falling at less than 1e-36 of the gate.
fn gated(function: Gate, gate: &Expected, up: &Expected) -> Expected {
    if function == Gate::SwigluOai {
        return bounded(gate, up);
    }
    let x = &gate.value;
    let (power, of_power) = match function {
        Gate::Silu => (x * number(-1.0), 0.0),
        Gate::GeluTanh => {
            let inner = x + x * x * x * number(0.044_715);
            (inner * number(-2.0 * (2.0 / std::f64::consts::PI).sqrt()), 6.0)
        }
        Gate::SwigluOai => unreachable!("its product is another one"),
    };
    let value = x / (exponential(&power) + number(1.0));
    let roundings = maximum(&power, number(0.0)).unwrap() * number(of_power) + number(8.0);
    let error = &gate.error * number(1.2)
        + value.abs().unwrap() * roundings * number(ROUNDING)
        + (x.abs().unwrap() + &gate.error) * number(1e-36);
    let up_size = up.value.abs().unwrap() + &up.error;
    let error = up_size * error + value.abs().unwrap() * &up.error;
    Expected { value: value * &up.value, error }
}

/// gpt-oss's product of a bounded gate and a bounded up. The gate's part nowhere rises faster than 1.2, and has ten roundings,
/// of which that of 1.702 x counts as often as the exponent is large; what is left where float32's exponential ends.
fn bounded(gate: &Expected, up: &Expected) -> Expected {
    let x = minimum(&gate.value, number(7.0)).unwrap();
    let bounded_up = maximum(minimum(&up.value, number(7.0)).unwrap(), number(-7.0)).unwrap() + number(1.0);
    let activated = &x / (exponential(&(&x * number(-1.702))) + number(1.0));
    let sizes = [&x, &activated, &bounded_up].map(|values| values.abs().unwrap());
    let roundings = (&sizes[0] * number(3.0) + number(10.0)) * number(ROUNDING);
    let error = &gate.error * number(1.2)
        + &sizes[1] * &roundings
        + (&sizes[0] + &gate.error) * number((-88.01_f64).exp())
        + number(f64::from(f32::MIN_POSITIVE));
    let error = (&sizes[2] + &up.error) * error + &sizes[1] * (&up.error + &sizes[2] * number(ROUNDING));
    Expected { value: &activated * &bounded_up, error }
}

/// `down(activation(gate(x)) * up(x))`.
pub(crate) fn feed_forward(x: &Array, function: Gate, [gate, up, down]: [&Weights; 3]) -> Expected {
    let x = Expected { value: wide(x), error: wide(x) * number(0.0) };
    down.product(&gated(function, &gate.product(&x, false), &up.product(&x, false)), false)
}

/// The weights as a matrix whose arrays have been evaluated.
pub(crate) fn evaluated(weights: &Weights) -> Matrix<'_> {
    let scales = weights.scales.iter().flat_map(|(scales, biases)| [scales, biases]);
    eval([&weights.stored].into_iter().chain(scales)).unwrap();
    weights.matrix()
}

/// The simplest job on some matrices.
pub(crate) fn plain<'a>(x: &'a Array, matrices: &'a [Matrix<'a>]) -> Linear<'a> {
    Linear { x, norm: None, matrices, gate: None, residual: None, int8: false }
}

/// `linear`, evaluated.
#[track_caller]
pub(crate) fn computed(job: &Linear<'_>) -> Array {
    let y = cpu::linear(job).unwrap();
    y.eval().unwrap();
    y
}
