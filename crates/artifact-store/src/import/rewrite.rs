//! A new safetensors file from the tensors of a source file: each copied, repacked, dequantized or quantized.
//!
//! The source is read once, in chunks of whole rows, by threads that convert them; the calling thread hashes and
//! writes. What is held in memory does not grow with the file, but for the scales and biases of a tensor, which wait
//! until its integers are written.

use std::{collections::HashSet, sync::Arc};

use half::{f16, slice::HalfFloatSliceExt};
use safetensors::Dtype;

use super::{
    affine::{pack, quantize},
    foreign::ForeignMatrix,
    parts::{Part, Parts, push},
    pipeline::in_order,
    source::SourceFile,
};
use crate::{
    ImportEvent, Observer, Quantization, StoreError,
    error::IoContext,
    gguf::{
        GgufError, micro_scaled,
        types::{Form, GROUP, TensorType},
    },
    manifest::byte_len,
    observer::tell,
    weights::{self, HeaderTensor},
    writer::{Staged, Writer},
};

/// About as many bytes are read at a time.
const CHUNK: u64 = 1 << 20;

/// A tensor of the source, and what becomes of it.
#[derive(Clone)]
pub(super) struct Conversion {
    /// Its name in the source, for errors.
    pub(super) source: String,
    /// Its new name; of a tensor that becomes three, without the last part (`weight`).
    pub(super) name: String,
    /// Row-major, in elements.
    pub(super) shape: Vec<u64>,
    /// Bytes from the start of the source.
    pub(super) offset: u64,
    /// Bytes in the source.
    pub(super) len: u64,
    pub(super) change: Change,
    /// The rows of each head come interleaved and go back to halves: rows a head.
    pub(super) unpermute: Option<u64>,
}

/// What happens to the elements.
#[derive(Clone)]
pub(super) enum Change {
    /// Nothing.
    Copy(Dtype),
    /// 1 is taken from each f32.
    SubtractOne,
    /// Of two rows that follow each other the first or the second; bytes of both.
    Alternate { dtype: Dtype, pair: u64, second: bool },
    /// Blocks to groups of one of MLX's packings, with the same values.
    Repack(TensorType),
    /// Blocks to f16.
    Dequantize(TensorType),
    /// To affine groups, from what would be stored otherwise.
    Quantize(TensorType, Quantization),
    /// A matrix that another program has packed to affine groups, with the same values. It knows where its tensors are.
    Repackage(Arc<ForeignMatrix>),
}

/// Some rows to convert.
struct Job {
    /// Index of the conversion.
    of: usize,
    first_row: u64,
    rows: u64,
}

/// What a rewritten file will be.
pub(super) struct Plan {
    conversions: Vec<Conversion>,
    /// In the order of the file: index of the conversion, and which part of it.
    outputs: Vec<(usize, Part)>,
    header: Vec<u8>,
    /// The tensors as the header has them.
    pub(super) tensors: Vec<HeaderTensor>,
}

impl Plan {
    /// Lays the file out, each tensor aligned (see [`weights::alignment_rank`]).
    pub(super) fn new(conversions: Vec<Conversion>) -> Result<Self, String> {
        let mut described = Vec::new();
        for (of, conversion) in conversions.iter().enumerate() {
            for (part, dtype, shape) in conversion.parts()? {
                let len = byte_len(dtype, &shape).ok_or_else(|| conversion.error("its size overflows"))?;
                described.push((
                    weights::alignment_rank(len),
                    (of, part),
                    (conversion.part_name(part), dtype, shape),
                ));
            }
        }
        let mut names = HashSet::new();
        if let Some((.., (name, ..))) = described.iter().find(|(.., (name, ..))| !names.insert(name.clone()))
        {
            return Err(format!("two of its tensors become `{name}`"));
        }
        described.sort_by_key(|(rank, ..)| *rank);
        let outputs = described.iter().map(|(_, output, _)| *output).collect();
        let tensors = described.into_iter().map(|(.., tensor)| tensor).collect();
        let (header, tensors) = weights::write_header(tensors).map_err(|error| error.to_string())?;
        Ok(Self { conversions, outputs, header, tensors })
    }

    /// Bytes of the file.
    pub(super) fn len(&self) -> u64 {
        self.header.len() as u64 + self.tensors.iter().map(|tensor| tensor.len).sum::<u64>()
    }

    /// Converts and stages the file.
    pub(super) fn stage(
        &self,
        writer: &Writer<'_>,
        source: &SourceFile,
        observer: &mut Observer<'_>,
    ) -> Result<Staged, StoreError> {
        writer.check_space(self.len())?;
        writer.stage_readable_by(source.readers(), |out| {
            let path = source.path();
            let mut emit = |bytes: &[u8]| {
                out.write_all(bytes).context("write the weights of", path)?;
                tell(observer, ImportEvent::Advanced(bytes.len() as u64))
            };
            emit(&self.header)?;
            let mut waiting: Vec<Parts> = self.conversions.iter().map(|_| Parts::default()).collect();
            let mut outputs = self.outputs.iter().copied();
            in_order(
                &self.jobs(),
                |job| self.conversions[job.of].convert(job, source),
                |job, parts| {
                    if job.first_row == 0 {
                        // A tensor's integers come before its scales, being longer by a whole factor.
                        for (of, part) in
                            outputs.by_ref().take_while(|&output| output != (job.of, Part::Elements))
                        {
                            emit(&waiting[of].take(part))?;
                        }
                    }
                    emit(&parts.elements)?;
                    waiting[job.of].scales.extend(parts.scales);
                    waiting[job.of].biases.extend(parts.biases);
                    Ok(())
                },
            )?;
            outputs.try_for_each(|(of, part)| emit(&waiting[of].take(part)))
        })
    }

    /// In the order in which the file has the elements.
    fn jobs(&self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for &(of, _) in self.outputs.iter().filter(|(_, part)| *part == Part::Elements) {
            let conversion = &self.conversions[of];
            let (rows, row_len) = conversion.rows();
            let at_once = match (&conversion.change, conversion.unpermute) {
                (Change::Repackage(matrix), _) => matrix.outputs_at_once(),
                (_, Some(head_dim)) => (CHUNK / row_len / head_dim).max(1) * head_dim,
                (_, None) => (CHUNK / row_len).max(1),
            };
            let mut first_row = 0;
            while first_row < rows {
                jobs.push(Job { of, first_row, rows: at_once.min(rows - first_row) });
                first_row += at_once;
            }
        }
        jobs
    }
}

impl Conversion {
    /// Rows and bytes of one. Of elements that stay as they are, a row may be anything: bytes. Two of which one is taken are
    /// one.
    fn rows(&self) -> (u64, u64) {
        let rows = match (&self.change, self.unpermute) {
            (Change::Copy(_), None) => return (self.len, 1),
            (Change::SubtractOne, None) => return (self.len / 4, 4),
            (Change::Alternate { pair, .. }, _) => return (self.len / pair.max(&1), *pair),
            (_, Some(_)) => self.shape[0],
            _ => self.shape.iter().rev().skip(1).product(),
        };
        (rows, self.len / rows.max(1))
    }

    /// The tensors it becomes, each with its type and shape.
    fn parts(&self) -> Result<Vec<(Part, Dtype, Vec<u64>)>, String> {
        let dense = |dtype| Ok(vec![(Part::Elements, dtype, self.shape.clone())]);
        // Of a matrix, or of several that are stacked.
        let [rows @ .., row] = &self.shape[..] else {
            return Err(self.error("it has no dimensions"));
        };
        let with = |columns: u64| [rows, &[columns]].concat();
        let (bits, group, scales) = match &self.change {
            Change::Copy(dtype) | Change::Alternate { dtype, .. } => return dense(*dtype),
            Change::SubtractOne => return dense(Dtype::F32),
            Change::Dequantize(_) => return dense(Dtype::F16),
            Change::Repack(kind) => match kind.form() {
                Form::Affine { bits, scales } => (u64::from(bits), GROUP, scales),
                Form::MicroScaled => {
                    let elements = (Part::Elements, Dtype::U32, with(row / 8));
                    return Ok(vec![elements, (Part::Scales, Dtype::U8, with(row / GROUP))]);
                }
                _ => return Err(self.error("its type has no groups")),
            },
            Change::Quantize(kind, to) => {
                let scales = kind.dense_dtype().ok_or_else(|| self.error("it is quantized already"))?;
                (to.bits.into(), to.group_size.into(), scales)
            }
            Change::Repackage(matrix) => matrix.packing(),
        };
        Ok(vec![
            (Part::Elements, Dtype::U32, with(row * bits / 32)),
            (Part::Scales, scales, with(row / group)),
            (Part::Biases, scales, with(row / group)),
        ])
    }

    fn part_name(&self, part: Part) -> String {
        match (&self.change, part) {
            (Change::Copy(_) | Change::SubtractOne | Change::Alternate { .. } | Change::Dequantize(_), _) => {
                self.name.clone()
            }
            (_, Part::Elements) => format!("{}.weight", self.name),
            (_, Part::Scales) => format!("{}.scales", self.name),
            (_, Part::Biases) => format!("{}.biases", self.name),
        }
    }

    fn convert(&self, job: &Job, source: &SourceFile) -> Result<Parts, StoreError> {
        if let Change::Repackage(matrix) = &self.change {
            return matrix.convert(job.first_row, job.rows);
        }
        let (_, row_len) = self.rows();
        let mut bytes = vec![0; (job.rows * row_len) as usize];
        source.read_exact_at(&mut bytes, self.offset + job.first_row * row_len)?;
        if let Some(head_dim) = self.unpermute {
            bytes = unpermuted(&bytes, head_dim as usize, row_len as usize);
        }
        self.change
            .apply(bytes)
            .map_err(|error| StoreError::bad_source(source.path(), self.error(&error.to_string())))
    }

    fn error(&self, reason: &str) -> String {
        format!("tensor `{}`: {reason}", self.source)
    }
}

impl Change {
    fn apply(&self, bytes: Vec<u8>) -> Result<Parts, GgufError> {
        let mut parts = Parts::default();
        match self {
            Self::Copy(_) => parts.elements = bytes,
            Self::SubtractOne => {
                let values = dense_values(TensorType::F32, &bytes)?;
                parts.elements.extend(values.iter().flat_map(|value| (value - 1.0).to_le_bytes()));
            }
            Self::Alternate { pair, second, .. } => {
                let half = *pair as usize / 2;
                let rows = bytes.chunks_exact(half.max(1)).skip((*second).into()).step_by(2);
                parts.elements.extend(rows.flatten());
            }
            Self::Repack(kind) if kind.form() == Form::MicroScaled => {
                micro_scaled::repack(&bytes, &mut parts.elements, &mut parts.scales)?;
            }
            Self::Dequantize(kind) => {
                let halves = halves(&dense_values(*kind, &bytes)?);
                parts.elements.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
            }
            Self::Repack(kind) => {
                let Form::Affine { bits, scales } = kind.form() else { return Ok(parts) };
                kind.groups(&bytes, |group| {
                    pack(&group.q, bits, &mut parts.elements);
                    push(&mut parts.scales, group.scale, scales)?;
                    push(&mut parts.biases, group.bias, scales)
                })?;
            }
            Self::Quantize(kind, quantization) => {
                let values = dense_values(*kind, &bytes)?;
                let scales = kind.dense_dtype().unwrap_or(Dtype::F16);
                let mut pushed = Ok(());
                quantize(&values, *quantization, &mut parts.elements, |scale, bias| {
                    let push = |out, value| push(out, value, scales);
                    if pushed.is_ok() {
                        pushed = push(&mut parts.scales, scale).and_then(|()| push(&mut parts.biases, bias));
                    }
                });
                pushed?;
            }
            // `Conversion::convert` has the matrix do that.
            Self::Repackage(_) => {}
        }
        Ok(parts)
    }
}

/// The elements as they are stored without quantizing: of blocks that become f16, rounded to it.
fn dense_values(kind: TensorType, bytes: &[u8]) -> Result<Vec<f32>, GgufError> {
    let mut values = Vec::new();
    kind.values(bytes, &mut values)?;
    if kind.form() == Form::Dequantized {
        let halves = halves(&values);
        if halves.iter().any(|half| !half.is_finite()) {
            return Err(GgufError::NotFinite);
        }
        halves.convert_to_f32_slice(&mut values);
    }
    Ok(values)
}

fn halves(values: &[f32]) -> Vec<f16> {
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    halves
}

/// Rows of whole heads in Hugging Face's order. It rotates the first half of a head's rows with the second half;
/// llama.cpp rotates neighbours, and interleaves the halves for it.
fn unpermuted(bytes: &[u8], head_dim: usize, row_len: usize) -> Vec<u8> {
    let mut ordered = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(head_dim * row_len) {
        for row in 0..head_dim {
            let from = row % (head_dim / 2) * 2 + row / (head_dim / 2);
            ordered.extend_from_slice(&head[from * row_len..(from + 1) * row_len]);
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The conversion that Hugging Face to GGUF makes: reshape each head to (2, half), swap, flatten.
    #[test]
    fn rows_of_a_head_come_back_to_their_order() {
        let permuted: Vec<u8> =
            [0, 10].into_iter().flat_map(|head| (0..3).flat_map(move |i| [head + i, head + i + 3])).collect();
        assert_eq!(unpermuted(&permuted, 6, 1), [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15]);
    }
}
