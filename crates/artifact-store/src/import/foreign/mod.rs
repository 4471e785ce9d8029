//! Matrices that another program has packed: GPTQ, AWQ and compressed-tensors. They become MLX's affine packing with the same
//! values, `scale * (q - zero) = scale * q + bias` with `bias = -scale * zero`.
//!
//! ```text
//! method   what a configuration says: which program's layout
//! shape    headers of a matrix's tensors -> its size, bits and groups; trusts nothing
//! layout   bytes of some outputs -> the same in MLX's layout; pure
//! matrix   where a matrix's tensors are; reads and converts
//! folder   all such matrices of a folder
//! ```

mod folder;
mod layout;
mod matrix;
mod method;
mod shape;

pub(super) use self::{folder::ForeignMatrices, matrix::ForeignMatrix, method::said};
#[cfg(any(test, fuzzing))]
pub(crate) use self::{
    layout::{Rows, converted},
    method::Method,
    shape::{Shape, Tensors},
};
