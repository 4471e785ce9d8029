//! Products with weight matrices, dense or quantized, and the embedding.

use mlx_ext::Backend;
use mlx_rs::{
    Array, Dtype,
    error::Exception,
    ops::{broadcast_to, dequantize, indexing::take_axis, quantized_matmul},
};

use super::{ModelError, step::Product, weights::Weights};

/// `y = x Wᵀ + b`, with `x` `[tokens, inputs]` and `y` `[tokens, outputs]`.
pub(super) struct Linear {
    matrix: Matrix,
    bias: Option<Array>,
}

impl Linear {
    /// Takes `<name>.weight` (with `.scales` and `.biases` where it is quantized) and, if `bias`,
    /// `<name>.bias`.
    pub(super) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        [outputs, inputs]: [i32; 2],
        bias: bool,
        backend: Backend,
    ) -> Result<Self, ModelError> {
        let matrix = Matrix::load(weights, name, [outputs, inputs], backend)?;
        let bias = if bias { Some(weights.take_float(&format!("{name}.bias"), &[outputs])?) } else { None };
        Ok(Self { matrix, bias })
    }

    pub(super) fn forward(&self, x: &Array, product: Product) -> Result<Array, Exception> {
        let y = self.matrix.multiply(x, product)?;
        match &self.bias {
            Some(bias) => y.add(bias.as_dtype(y.dtype())?),
            None => Ok(y),
        }
    }
}

/// A row of a matrix for each token; the same matrix may give the logits.
pub(super) struct Embedding {
    matrix: Matrix,
}

impl Embedding {
    /// Takes `<name>.weight` and what belongs to it.
    pub(super) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        [vocab, hidden]: [i32; 2],
        backend: Backend,
    ) -> Result<Self, ModelError> {
        Ok(Self { matrix: Matrix::load(weights, name, [vocab, hidden], backend)? })
    }

    /// `[tokens, hidden]` of token ids `[tokens]`, in the type that activations have.
    pub(super) fn lookup(&self, tokens: &Array) -> Result<Array, Exception> {
        self.matrix.rows(tokens)
    }

    /// `[rows, vocab]` of `[rows, hidden]`: the tied output head.
    pub(super) fn as_linear(&self, x: &Array, product: Product) -> Result<Array, Exception> {
        self.matrix.multiply(x, product)
    }
}

/// A matrix `[outputs, inputs]` as it is stored.
struct Matrix {
    storage: Storage,
    backend: Backend,
}

enum Storage {
    /// float32, float16 or bfloat16.
    Dense(Array),
    /// `scale * q + bias`, with one scale and bias for each `group_size` inputs of an output.
    Affine {
        /// uint32 `[outputs, inputs * bits / 32]`.
        packed: Array,
        /// `[outputs, inputs / group_size]`.
        scales: Array,
        /// Like `scales`.
        biases: Array,
        group_size: i32,
        bits: i32,
    },
}

impl Matrix {
    fn load(
        weights: &mut Weights<'_>,
        name: &str,
        [outputs, inputs]: [i32; 2],
        backend: Backend,
    ) -> Result<Self, ModelError> {
        let (weight, scales) = (format!("{name}.weight"), format!("{name}.scales"));
        let storage = if weights.contains(&scales) {
            let biases = format!("{name}.biases");
            let (group_size, bits) = packing(weights, &weight, &scales, inputs)?;
            let groups = [outputs, inputs / group_size];
            Storage::Affine {
                packed: weights.take_packed(&weight, &[outputs, inputs / 32 * bits])?,
                scales: weights.take_float(&scales, &groups)?,
                biases: weights.take_float(&biases, &groups)?,
                group_size,
                bits,
            }
        } else {
            Storage::Dense(weights.take_float(&weight, &[outputs, inputs])?)
        };
        Ok(Self { storage, backend })
    }

    fn multiply(&self, x: &Array, product: Product) -> Result<Array, Exception> {
        match (&self.storage, product) {
            (Storage::Dense(weight), Product::Together) => x.matmul(self.computable(weight)?.t()),
            (Storage::Dense(weight), Product::RowsApart) => {
                // A batch of one-row products, since a product of several rows adds in another
                // order than a product of one.
                let transposed = self.computable(weight)?.t();
                let [rows, inputs] = [x.dim(0), x.dim(1)];
                let batch = broadcast_to(&transposed, &[rows, inputs, transposed.dim(1)])?;
                x.reshape(&[rows, 1, inputs])?.matmul(batch)?.squeeze_axes(&[1])
            }
            (Storage::Affine { .. }, Product::Together) if self.backend == Backend::Cpu => {
                // MLX's quantized product on the CPU takes each row by itself, at the same cost.
                x.matmul(self.expanded()?.t())
            }
            (Storage::Affine { packed, scales, biases, group_size, bits }, _) => {
                quantized_matmul(x, packed, scales, biases, true, *group_size, *bits)
            }
        }
    }

    fn rows(&self, indices: &Array) -> Result<Array, Exception> {
        match &self.storage {
            Storage::Dense(weight) => self.computable(&take_axis(weight, indices, 0)?),
            Storage::Affine { packed, scales, biases, group_size, bits } => {
                let packed = take_axis(packed, indices, 0)?;
                let scales = self.computable(&take_axis(scales, indices, 0)?)?;
                let biases = self.computable(&take_axis(biases, indices, 0)?)?;
                dequantize(&packed, &scales, &biases, *group_size, *bits)
            }
        }
    }

    /// The whole matrix, in the type that activations have.
    fn expanded(&self) -> Result<Array, Exception> {
        match &self.storage {
            Storage::Dense(weight) => self.computable(weight),
            Storage::Affine { packed, scales, biases, group_size, bits } => {
                let (scales, biases) = (self.computable(scales)?, self.computable(biases)?);
                dequantize(packed, &scales, &biases, *group_size, *bits)
            }
        }
    }

    /// float32 on the CPU, where half precision is emulated; as it is on the GPU.
    fn computable(&self, array: &Array) -> Result<Array, Exception> {
        match self.backend {
            Backend::Cpu => array.as_dtype(Dtype::Float32),
            Backend::Gpu => Ok(array.clone()),
        }
    }
}

/// Group size and bits of a quantized matrix, which its shapes tell: a configuration may give them
/// for each module or not at all.
fn packing(weights: &Weights<'_>, weight: &str, scales: &str, inputs: i32) -> Result<(i32, i32), ModelError> {
    let columns =
        |name: &str| Ok::<_, ModelError>((weights.shape(name)?, weights.shape(name)?.last().copied()));
    let inputs = inputs as u64;
    let (scales_shape, groups) = columns(scales)?;
    let group_size =
        groups.filter(|&groups| groups > 0 && inputs.is_multiple_of(groups)).map(|groups| inputs / groups);
    let Some(group_size @ (32 | 64 | 128)) = group_size else {
        return Err(ModelError::WrongShape {
            name: scales.to_owned(),
            found: scales_shape.to_vec(),
            expected: format!("one column for each 32, 64 or 128 of {inputs} inputs"),
        });
    };
    let (packed_shape, words) = columns(weight)?;
    let bits = words.filter(|words| (words * 32).is_multiple_of(inputs)).map(|words| words * 32 / inputs);
    let Some(bits @ (4 | 8)) = bits else {
        return Err(ModelError::WrongShape {
            name: weight.to_owned(),
            found: packed_shape.to_vec(),
            expected: format!("columns for {inputs} inputs of 4 or 8 bits"),
        });
    };
    Ok((group_size as i32, bits as i32))
}
