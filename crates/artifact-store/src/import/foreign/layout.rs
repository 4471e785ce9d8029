//! From other programs' layouts to MLX's: bytes of some outputs of a matrix, with the same values.
//!
//! MLX packs a row's integers as one stream of bits, the first in the lowest. GPTQ's words along the inputs are such a stream,
//! too, in 3 bits as in others, so its matrices are transposed word by word; compressed-tensors' are the same as MLX's.

use half::{bf16, f16};

use super::{method::Method, shape::Shape};
use crate::{
    Dtype,
    gguf::GgufError,
    import::parts::{Parts, push},
};

/// Where in a word AWQ has each of eight integers.
const AWQ_PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Bytes of some outputs that follow each other, cut out of each tensor. The first is a multiple of 32.
pub(crate) struct Rows {
    /// How many.
    pub(crate) outputs: usize,
    pub(crate) integers: Vec<u8>,
    pub(crate) scales: Vec<u8>,
    /// Empty where none are stored.
    pub(crate) zeros: Vec<u8>,
}

/// The same outputs in MLX's layout; scales and biases get the type `scales`.
///
/// # Errors
/// A scale or a bias is not finite.
pub(crate) fn converted(shape: Shape, rows: &Rows, scales: Dtype) -> Result<Parts, GgufError> {
    let elements = match shape.method {
        Method::Gptq { .. } => transposed(&rows.integers, rows.outputs),
        Method::Awq => gathered(&rows.integers, rows.outputs, shape.inputs as usize),
        Method::CompressedTensors => rows.integers.clone(),
    };
    let mut parts = Parts { elements, ..Parts::default() };
    let groups = shape.groups() as usize;
    let times = shape.group / shape.stored_group().unwrap_or(shape.group);
    for output in 0..rows.outputs {
        for group in 0..groups {
            let place = match shape.method {
                Method::CompressedTensors => output * groups + group,
                Method::Gptq { .. } | Method::Awq => group * rows.outputs + output,
            };
            let scale = float_at(&rows.scales, place, shape.scales);
            let zero = if shape.has_zeros { zero_at(shape, rows, output, group) } else { shape.middle() };
            // Subtracted from 0, so that without a zero it is not -0.
            let bias = 0.0 - scale * zero as f32;
            for _ in 0..times {
                push(&mut parts.scales, scale, scales)?;
                push(&mut parts.biases, bias, scales)?;
            }
        }
    }
    Ok(parts)
}

/// Whether `-scale * zero` is exact in the scales' own type for each zero of these words: it is where the zero is 0 or a power
/// of two; a product with another one has more bits than the scale. Words are whole triples where integers have 3 bits.
///
/// Where integers lie across words that are not neighbours the answer is no, which is safe.
pub(super) fn are_powers_of_two(shape: Shape, words: &[u8]) -> bool {
    if shape.method == Method::CompressedTensors && !32_u64.is_multiple_of(shape.bits) {
        return false;
    }
    let (bits, count) = (shape.bits as usize, words.len() * 8 / shape.bits as usize);
    (0..count).all(|index| {
        let zero = stored_zero(shape, bits_at(words, index * bits, bits));
        zero & zero.wrapping_sub(1) == 0
    })
}

/// Words `[inputs, outputs]` in the order of outputs.
fn transposed(words: &[u8], outputs: usize) -> Vec<u8> {
    let (words, _) = words.as_chunks::<4>();
    let columns = (0..outputs).flat_map(|output| words.iter().skip(output).step_by(outputs.max(1)));
    columns.flatten().copied().collect()
}

/// AWQ's integers of each output, two in a byte.
fn gathered(words: &[u8], outputs: usize, inputs: usize) -> Vec<u8> {
    let row = outputs / 2;
    let mut packed = Vec::with_capacity(outputs * inputs / 2);
    for output in 0..outputs {
        let nibble = awq_nibble(output);
        let (byte, shift) = (nibble / 2, nibble % 2 * 4);
        let at = |input: usize| words[input * row + byte] >> shift & 15;
        packed.extend((0..inputs).step_by(2).map(|input| at(input) | at(input + 1) << 4));
    }
    packed
}

fn awq_nibble(output: usize) -> usize {
    output / 8 * 8 + AWQ_PLACES[output % 8]
}

fn zero_at(shape: Shape, rows: &Rows, output: usize, group: usize) -> u32 {
    let (bits, groups) = (shape.bits as usize, shape.groups() as usize);
    let place = match shape.method {
        Method::Gptq { .. } => group * rows.outputs + output,
        Method::Awq => group * rows.outputs + awq_nibble(output),
        Method::CompressedTensors => {
            // In one of the words that follow each other in the group's column, or in two.
            let (words, _) = rows.zeros.as_chunks::<4>();
            let word =
                |row: usize| words.get(row * groups + group).map_or(0, |word| u32::from_le_bytes(*word));
            let (row, shift) = (output * bits / 32, output * bits % 32);
            let both = u64::from(word(row)) | u64::from(word(row + 1)) << 32;
            return (both >> shift) as u32 & ((1 << bits) - 1);
        }
    };
    stored_zero(shape, bits_at(&rows.zeros, place * bits, bits))
}

/// What a stored zero stands for. The least is 0, of which 1 less is the greatest that can be stored.
fn stored_zero(shape: Shape, stored: u32) -> u32 {
    match shape.method {
        Method::Gptq { less_one: true } => (stored + 1) & ((1 << shape.bits) - 1),
        _ => stored,
    }
}

/// An integer of at most 8 bits, which may lie in two bytes.
fn bits_at(bytes: &[u8], bit: usize, bits: usize) -> u32 {
    let next = bytes.get(bit / 8 + 1).copied().unwrap_or_default();
    let both = u32::from(u16::from_le_bytes([bytes[bit / 8], next]));
    both >> (bit % 8) & ((1 << bits) - 1)
}

fn float_at(bytes: &[u8], index: usize, dtype: Dtype) -> f32 {
    let half = |bytes: &[u8]| bytes.as_chunks().0[index];
    match dtype {
        Dtype::F32 => f32::from_le_bytes(bytes.as_chunks().0[index]),
        Dtype::BF16 => bf16::from_le_bytes(half(bytes)).to_f32(),
        _ => f16::from_le_bytes(half(bytes)).to_f32(),
    }
}
