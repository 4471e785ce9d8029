//! A packed matrix in its files.

use std::{ops::Range, sync::Arc};

use super::{
    layout::{Rows, are_powers_of_two, converted},
    method::Method,
    shape::Shape,
};
use crate::{
    Dtype, StoreError,
    import::{parts::Parts, source::SourceFile},
};

/// About how many bytes of integers are converted at a time: enough that what is read of each row of a transposed matrix is a
/// good part of a page.
const AT_ONCE: u64 = 2 << 20;
/// Outputs whose zeros take whole words in every width.
const WORDS_OF_OUTPUTS: u64 = 32;
/// About how many bytes are examined at a time: whole words of every width.
const CHUNK: u64 = 96 << 13;

/// A matrix whose tensors may be in several files.
pub(in crate::import) struct ForeignMatrix {
    /// What the names of its tensors have in common.
    pub(in crate::import) module: String,
    pub(super) shape: Shape,
    integers: Place,
    scales: Place,
    zeros: Option<Place>,
    /// The type of scales and biases in which all of them are exact.
    stored_scales: Dtype,
}

/// A tensor in its file.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) file: Arc<SourceFile>,
    /// Bytes from the start of the file.
    pub(super) offset: u64,
    /// Bytes.
    pub(super) len: u64,
}

impl Place {
    /// Calls `each` with its bytes in order, in chunks that never split an integer or a word, until it returns `false`.
    /// Returns whether it never did.
    pub(super) fn all(&self, mut each: impl FnMut(&[u8]) -> bool) -> Result<bool, StoreError> {
        for start in (0..self.len).step_by(CHUNK as usize) {
            let mut bytes = vec![0; CHUNK.min(self.len - start) as usize];
            self.file.read_exact_at(&mut bytes, self.offset + start)?;
            if !each(&bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Of some rows of `row_len` bytes the same range of each.
    fn cut(&self, row_len: u64, rows: Range<u64>, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let (count, width) = ((rows.end - rows.start) as usize, (range.end - range.start) as usize);
        let mut bytes = vec![0; count * width];
        if width as u64 == row_len {
            self.file.read_exact_at(&mut bytes, self.offset + rows.start * row_len)?;
            return Ok(bytes);
        }
        for (row, bytes) in rows.zip(bytes.chunks_exact_mut(width.max(1))) {
            self.file.read_exact_at(bytes, self.offset + row * row_len + range.start)?;
        }
        Ok(bytes)
    }
}

impl ForeignMatrix {
    /// Reads the zeros, to know in which type the biases are exact.
    pub(super) fn new(
        module: String,
        shape: Shape,
        [integers, scales]: [Place; 2],
        zeros: Option<Place>,
    ) -> Result<Self, StoreError> {
        let keeps_type = match &zeros {
            Some(zeros) => zeros.all(|words| are_powers_of_two(shape, words))?,
            None => true,
        };
        // A scale of at most 11 bits times a zero of at most 8.
        let stored_scales = if keeps_type { shape.scales } else { Dtype::F32 };
        Ok(Self { module, shape, integers, scales, zeros, stored_scales })
    }

    /// Outputs and inputs.
    pub(in crate::import) fn size(&self) -> [u64; 2] {
        [self.shape.outputs, self.shape.inputs]
    }

    /// As it will be stored: bits of an integer, inputs of a group, the type of scales and biases.
    pub(in crate::import) fn packing(&self) -> (u64, u64, Dtype) {
        let group = self.shape.stored_group().unwrap_or(self.shape.group);
        (self.shape.bits, group, self.stored_scales)
    }

    /// How many outputs to [`convert`](Self::convert) at a time.
    pub(in crate::import) fn outputs_at_once(&self) -> u64 {
        let outputs = AT_ONCE / (self.shape.inputs * self.shape.bits / 8).max(1);
        (outputs / WORDS_OF_OUTPUTS).max(1) * WORDS_OF_OUTPUTS
    }

    /// Some outputs in MLX's layout. `first` is a multiple of [`outputs_at_once`](Self::outputs_at_once).
    ///
    /// # Errors
    /// It can't be read, or a scale or a bias is not finite.
    pub(in crate::import) fn convert(&self, first: u64, outputs: u64) -> Result<Parts, StoreError> {
        let rows = self.read(first..first + outputs)?;
        converted(self.shape, &rows, self.stored_scales).map_err(|error| {
            let reason = format!("matrix `{}`: {error}", self.module);
            StoreError::bad_source(self.scales.file.path(), reason)
        })
    }

    fn read(&self, outputs: Range<u64>) -> Result<Rows, StoreError> {
        let Shape { inputs, bits, .. } = self.shape;
        let (all, groups) = (self.shape.outputs, self.shape.groups());
        let scale = self.shape.scales.bitsize() as u64 / 8;
        let times = |range: &Range<u64>, by: u64| range.start * by..range.end * by;
        let of_bits = |range: &Range<u64>| range.start * bits / 8..range.end * bits / 8;
        let by_group = |row: u64, range| move |place: &Place| place.cut(row, 0..groups, range);
        let (integers, scales, zeros) = match self.shape.method {
            Method::Gptq { .. } => (
                self.integers.cut(all * 4, 0..inputs * bits / 32, times(&outputs, 4))?,
                by_group(all * scale, times(&outputs, scale))(&self.scales)?,
                self.zeros.as_ref().map(by_group(all * bits / 8, of_bits(&outputs))).transpose()?,
            ),
            Method::Awq => (
                self.integers.cut(all * bits / 8, 0..inputs, of_bits(&outputs))?,
                by_group(all * scale, times(&outputs, scale))(&self.scales)?,
                self.zeros.as_ref().map(by_group(all * bits / 8, of_bits(&outputs))).transpose()?,
            ),
            Method::CompressedTensors => {
                let whole = |place: &Place, rows, row_len| place.cut(row_len, rows, 0..row_len);
                let words = outputs.start * bits / 32..(outputs.end * bits).div_ceil(32);
                (
                    whole(&self.integers, outputs.clone(), inputs * bits / 8)?,
                    whole(&self.scales, outputs.clone(), groups * scale)?,
                    self.zeros.as_ref().map(|zeros| whole(zeros, words, groups * 4)).transpose()?,
                )
            }
        };
        let count = (outputs.end - outputs.start) as usize;
        Ok(Rows { outputs: count, integers, scales, zeros: zeros.unwrap_or_default() })
    }
}
