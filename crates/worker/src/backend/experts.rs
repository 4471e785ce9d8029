//! A feed-forward network of experts, of which each token goes through a few.

use mlx_rs::{
    Array,
    error::Exception,
    ops::{indexing::TryIndexOp, stack},
    transforms::eval,
};

use super::{Gate, Matrix, Routing, Storage};

/// Matrices of the same kind, one an expert, as they are stored, and their biases.
pub(crate) struct StoredExperts {
    pub(crate) matrices: StoredMatrices,
    /// `[experts, outputs]`.
    pub(crate) bias: Option<Array>,
}

/// One matrix an expert.
pub(crate) enum StoredMatrices {
    /// `[experts, outputs, inputs]`.
    Stacked(Storage),
    /// `[outputs, inputs]` each.
    Separate(Vec<Storage>),
}

/// Sizes of the experts of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpertSizes {
    /// How many there are.
    pub(crate) count: i32,
    pub(crate) inputs: i32,
    /// What lies between their two products.
    pub(crate) inner: i32,
}

/// `y = residual + Σ weight * down(activation(gate(x)) * up(x))` over the experts that a token chooses.
#[derive(Clone, Copy)]
pub(crate) struct Mix<'a> {
    /// `[tokens, inputs]`.
    pub(crate) x: &'a Array,
    pub(crate) routing: Routing<'a>,
    pub(crate) gate: Gate,
    /// `[tokens, outputs]`.
    pub(crate) residual: Option<&'a Array>,
}

impl StoredExperts {
    /// Bytes that stacking them takes.
    pub(super) fn stacking_bytes(&self) -> u64 {
        match &self.matrices {
            StoredMatrices::Stacked(_) => 0,
            StoredMatrices::Separate(separate) => separate.iter().map(Storage::bytes).sum(),
        }
    }
}

impl StoredMatrices {
    /// One for each expert, as views, evaluated.
    pub(super) fn separate(self, count: i32) -> Result<Vec<Storage>, Exception> {
        let separate = match self {
            Self::Separate(separate) => separate,
            Self::Stacked(all) => {
                let one = |expert: i32| all.each(|array| array.try_index(expert));
                (0..count).map(one).collect::<Result<_, _>>()?
            }
        };
        eval(separate.iter().flat_map(Storage::arrays))?;
        Ok(separate)
    }

    /// All in one. Takes memory, unless they are stored so.
    fn stacked(self) -> Result<Storage, Exception> {
        let separate = match self {
            Self::Stacked(all) => return Ok(all),
            Self::Separate(separate) => separate,
        };
        let Some(first) = separate.first() else { return Err(Exception::custom("a layer has no experts")) };
        let part = |which: usize| {
            let arrays: Vec<&Array> =
                separate.iter().filter_map(|one| one.arrays().get(which).copied()).collect();
            stack(&arrays, 0)
        };
        let stacked = match first {
            Storage::Dense(_) => Storage::Dense(part(0)?),
            Storage::Affine { group_size, bits, .. } => Storage::Affine {
                packed: part(0)?,
                scales: part(1)?,
                biases: part(2)?,
                group_size: *group_size,
                bits: *bits,
            },
            Storage::MicroScaled { format, .. } => {
                Storage::MicroScaled { packed: part(0)?, scales: part(1)?, format: *format }
            }
        };
        eval(stacked.arrays())?;
        Ok(stacked)
    }

    /// Whether all are packed alike, so that they can be one.
    fn are_alike(&self) -> bool {
        let packing = |storage: &Storage| match storage {
            Storage::Dense(weight) => (weight.dtype(), None),
            Storage::Affine { scales, group_size, bits, .. } => (scales.dtype(), Some((*group_size, *bits))),
            Storage::MicroScaled { scales, format, .. } => {
                (scales.dtype(), Some((format.group_size(), format.bits())))
            }
        };
        match self {
            Self::Stacked(_) => true,
            Self::Separate(separate) => separate.windows(2).all(|two| packing(&two[0]) == packing(&two[1])),
        }
    }
}

/// Gates, ups and downs, each in one, as `matrix` makes them.
pub(super) fn stacked(
    stored: [StoredExperts; 3],
    matrix: impl Fn(Storage, Option<Array>) -> Result<Matrix, Exception>,
) -> Result<Box<[Matrix; 3]>, Exception> {
    if !stored.iter().all(|part| part.matrices.are_alike()) {
        return Err(Exception::custom("the experts of a layer are packed in different ways"));
    }
    let [gate, up, down] = stored.map(|part| matrix(part.matrices.stacked()?, part.bias));
    Ok(Box::new([gate?, up?, down?]))
}
