//! Products with weight matrices, dense or quantized, and the embedding.

use mlx_ext::cpu;
use mlx_rs::{
    Array, Dtype,
    error::Exception,
    fast::rms_norm,
    ops::{concatenate, dequantize, indexing::take_axis, quantized_matmul, sigmoid},
};

use super::{Kernels, ModelError, weights::Weights};

/// RMS normalization.
pub(super) struct Norm {
    weight: Array,
    eps: f32,
}

impl Norm {
    /// Takes `<name>.weight`.
    pub(super) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        width: i32,
        eps: f32,
        kernels: Kernels,
    ) -> Result<Self, ModelError> {
        let weight = weights.take_float(&format!("{name}.weight"), &[width])?;
        Ok(Self { weight: weight.as_dtype(computed_in(weights, kernels))?, eps })
    }
}

/// `y = f(norm(x) Wᵀ + b) (+ residual)`: what stands around the matrix products of a transformer block, as one step,
/// so that a backend can compute it as one.
pub(super) struct Projection {
    norm: Option<Norm>,
    /// Of equal inputs; their outputs stand behind each other in `y`.
    matrices: Vec<Matrix>,
    /// Two matrices, gate and up: `y = silu(gate) * up`.
    gated: bool,
    kernels: Kernels,
}

impl Projection {
    /// `matrices` behind each other, after an optional normalization.
    pub(super) fn new(norm: Option<Norm>, matrices: Vec<Matrix>, kernels: Kernels) -> Self {
        Self { norm, matrices, gated: false, kernels }
    }

    /// `silu(gate) * up`, after a normalization.
    pub(super) fn gated(norm: Norm, gate: Matrix, up: Matrix, kernels: Kernels) -> Self {
        Self { norm: Some(norm), matrices: vec![gate, up], gated: true, kernels }
    }

    /// `x` `[tokens, inputs]`, `residual` and the result `[tokens, outputs]`; lazy.
    pub(super) fn forward(&self, x: &Array, residual: Option<&Array>) -> Result<Array, Exception> {
        if self.kernels.are_own() {
            return self.forward_cpu(x, &self.matrices, residual);
        }
        self.forward_composed(x, &self.matrices.iter().collect::<Vec<_>>(), residual)
    }

    fn forward_cpu(
        &self,
        x: &Array,
        matrices: &[Matrix],
        residual: Option<&Array>,
    ) -> Result<Array, Exception> {
        let matrices: Vec<cpu::Matrix<'_>> = matrices.iter().map(Matrix::for_cpu).collect();
        cpu::linear(&cpu::Linear {
            x,
            norm: self.norm.as_ref().map(|norm| (&norm.weight, norm.eps)),
            matrices: &matrices,
            gated: self.gated,
            residual,
            int8: self.kernels == Kernels::OwnInt8,
        })
    }

    /// The same of MLX's own operations.
    fn forward_composed(
        &self,
        x: &Array,
        matrices: &[&Matrix],
        residual: Option<&Array>,
    ) -> Result<Array, Exception> {
        let normed = self.norm.as_ref().map(|norm| rms_norm(x, Some(&norm.weight), norm.eps)).transpose()?;
        let x = normed.as_ref().unwrap_or(x);
        let products: Vec<Array> =
            matrices.iter().map(|matrix| matrix.multiply(x)).collect::<Result<_, _>>()?;
        let y = match &products[..] {
            [gate, up] if self.gated => gate.multiply(sigmoid(gate)?)?.multiply(up)?,
            [one] => one.clone(),
            several => concatenate(several, -1)?,
        };
        residual.map_or(Ok(y.clone()), |residual| residual.add(&y))
    }
}

/// A row of a matrix for each token.
pub(super) struct Embedding {
    matrix: Matrix,
    width: i32,
    kernels: Kernels,
}

impl Embedding {
    /// Takes `<name>.weight` and what belongs to it.
    pub(super) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        [vocab, width]: [i32; 2],
        kernels: Kernels,
    ) -> Result<Self, ModelError> {
        Ok(Self { matrix: Matrix::load(weights, name, [vocab, width], false, kernels)?, width, kernels })
    }

    /// `[tokens, width]` of token ids, uint32 `[tokens]`, in the type that activations have.
    pub(super) fn lookup(&self, tokens: &Array) -> Result<Array, Exception> {
        if self.kernels.are_own() {
            return cpu::embedding(&self.matrix.for_cpu(), tokens, self.width);
        }
        self.matrix.rows(tokens)
    }

    /// The same matrix as an output head.
    pub(super) fn head(&self) -> Matrix {
        self.matrix.clone()
    }
}

/// A matrix `[outputs, inputs]` as it is stored. Cloning shares it.
#[derive(Clone)]
pub(super) struct Matrix {
    storage: Storage,
    bias: Option<Array>,
    /// Type of activations.
    dtype: Dtype,
}

#[derive(Clone)]
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

impl Storage {
    /// The same in float32. Takes memory; but MLX's product with packed weights is, on a CPU, a hundred times slower.
    fn unpacked(self) -> Result<Self, Exception> {
        Ok(Self::Dense(match self {
            Self::Dense(weight) => weight.as_dtype(Dtype::Float32)?,
            Self::Affine { packed, scales, biases, group_size, bits } => {
                let (scales, biases) = (scales.as_dtype(Dtype::Float32)?, biases.as_dtype(Dtype::Float32)?);
                dequantize(packed, scales, &biases, group_size, bits)?
            }
        }))
    }
}

impl Matrix {
    /// Takes `<name>.weight` (with `.scales` and `.biases` where it is quantized) and, if `bias`, `<name>.bias`.
    pub(super) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        [outputs, inputs]: [i32; 2],
        bias: bool,
        kernels: Kernels,
    ) -> Result<Self, ModelError> {
        let (weight, scales) = (format!("{name}.weight"), format!("{name}.scales"));
        let storage = if weights.contains(&scales) {
            let (group_size, bits) = packing(weights, &weight, &scales, inputs)?;
            let groups = [outputs, inputs / group_size];
            Storage::Affine {
                packed: weights.take_packed(&weight, &[outputs, inputs / 32 * bits])?,
                scales: weights.take_float(&scales, &groups)?,
                biases: weights.take_float(&format!("{name}.biases"), &groups)?,
                group_size,
                bits,
            }
        } else {
            Storage::Dense(weights.take_float(&weight, &[outputs, inputs])?)
        };
        let storage = if kernels == Kernels::MlxFloat32 { storage.unpacked()? } else { storage };
        let bias = if bias { Some(weights.take_float(&format!("{name}.bias"), &[outputs])?) } else { None };
        let dtype = computed_in(weights, kernels);
        Ok(Self { storage, bias: bias.map(|bias| bias.as_dtype(dtype)).transpose()?, dtype })
    }

    fn for_cpu(&self) -> cpu::Matrix<'_> {
        let (weight, quantization) = match &self.storage {
            Storage::Dense(weight) => (weight, None),
            Storage::Affine { packed, scales, biases, group_size, bits } => {
                let packing = cpu::Quantization { scales, biases, group_size: *group_size, bits: *bits };
                (packed, Some(packing))
            }
        };
        cpu::Matrix { weight, quantization, bias: self.bias.as_ref() }
    }

    fn multiply(&self, x: &Array) -> Result<Array, Exception> {
        let y = match &self.storage {
            Storage::Dense(weight) => x.matmul(weight.t())?,
            Storage::Affine { packed, scales, biases, group_size, bits } => {
                quantized_matmul(x, packed, scales, biases, true, *group_size, *bits)?
            }
        };
        // A matrix of another type than most must not change that of everything behind it.
        let y = y.as_dtype(self.dtype)?;
        self.bias.as_ref().map_or(Ok(y.clone()), |bias| y.add(bias))
    }

    fn rows(&self, indices: &Array) -> Result<Array, Exception> {
        let of = |array: &Array| take_axis(array, indices, 0);
        match &self.storage {
            Storage::Dense(weight) => of(weight)?.as_dtype(self.dtype),
            Storage::Affine { packed, scales, biases, group_size, bits } => {
                // The result has the scales' type, and is rounded to it.
                let (scales, biases) = (of(scales)?.as_dtype(self.dtype)?, of(biases)?.as_dtype(self.dtype)?);
                dequantize(of(packed)?, scales, &biases, *group_size, *bits)
            }
        }
    }
}

/// The type of activations, and of the small tensors that meet them: one in the whole model. MLX would promote what is of
/// two types, and convert the larger operand of each product in each step.
pub(super) fn computed_in(weights: &Weights<'_>, kernels: Kernels) -> Dtype {
    match kernels {
        Kernels::Own | Kernels::OwnInt8 | Kernels::MlxFloat32 => Dtype::Float32,
        Kernels::Mlx => weights.float(),
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
