//! Many copies of the same matrices, more than any cache holds: a model's weights come from memory at every step.

use std::{fmt, fs::File, io::Write};

use half::{bf16, f16};
use mlx_ext::{MappedFile, MicroScaling, cpu};
use mlx_rs::{Array, Dtype, ops::quantize, random, transforms::eval};

/// Bytes of all copies together, at least.
const BYTES: usize = 192 << 20;
/// Alignment of tensors in the file.
const ALIGN: u64 = 64;

/// A matrix's size and how it is stored.
#[derive(Clone, Copy)]
pub(crate) struct Format {
    pub(crate) outputs: i32,
    pub(crate) inputs: i32,
    pub(crate) storage: Storage,
}

#[derive(Clone, Copy)]
pub(crate) enum Storage {
    /// MLX's affine packing, with float16 scales and biases.
    Affine { bits: i32, group: i32 },
    /// Floats of 4 bits.
    Mxfp4,
    /// bfloat16.
    Dense,
}

/// Where the bytes are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the page cache, mapped as a worker maps a blob.
    MappedFile,
    /// In memory of this process's own.
    Anonymous,
}

/// One matrix.
pub(crate) struct Weight {
    format: Format,
    /// Packed or dense weight; scales and biases, if it is quantized.
    arrays: Vec<Array>,
}

/// `copies` times the matrices of a few formats.
pub(crate) struct Weights {
    pub(crate) copies: Vec<Vec<Weight>>,
    /// The bytes of each array as words, for a plain read.
    words: Vec<Array>,
    /// Bytes of one copy.
    pub(crate) bytes: usize,
    _file: Option<MappedFile>,
}

impl fmt::Display for Storage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Affine { bits, group } => write!(out, "{bits} bits, groups of {group}"),
            Self::Mxfp4 => out.write_str("mxfp4"),
            Self::Dense => out.write_str("bfloat16"),
        }
    }
}

impl Format {
    fn make(self) -> Vec<Array> {
        let dense = random::normal::<f32>(&[self.outputs, self.inputs], None, None, None).unwrap();
        let arrays = match self.storage {
            Storage::Affine { bits, group } => {
                let (packed, scales, biases) = quantize(&dense, group, bits).unwrap();
                let half = |array: Array| array.as_dtype(Dtype::Float16).unwrap();
                vec![packed, half(scales), half(biases)]
            }
            Storage::Mxfp4 => {
                let (packed, scales) = MicroScaling::Mxfp4.quantize(&dense).unwrap();
                vec![packed, scales]
            }
            Storage::Dense => vec![dense.as_dtype(Dtype::Bfloat16).unwrap()],
        };
        eval(&arrays).unwrap();
        arrays
    }

    /// Products of one row of activations.
    pub(crate) fn products(self) -> f64 {
        f64::from(self.outputs) * f64::from(self.inputs)
    }
}

impl Weight {
    pub(crate) fn matrix(&self) -> cpu::Matrix<'_> {
        let quantization = match (self.format.storage, self.arrays.as_slice()) {
            (Storage::Affine { bits, group }, [_, scales, biases]) => {
                Some(cpu::Quantization::Affine { scales, biases, group_size: group, bits })
            }
            (Storage::Mxfp4, [_, scales]) => Some(cpu::Quantization::Mxfp4 { scales }),
            _ => None,
        };
        cpu::Matrix { weight: &self.arrays[0], quantization, bias: None }
    }
}

impl Weights {
    /// As many copies as take [`BYTES`].
    pub(crate) fn make(formats: &[Format], place: Place) -> Self {
        Self::with(formats, place, |bytes| BYTES.div_ceil(bytes))
    }

    pub(crate) fn of_copies(formats: &[Format], place: Place, count: usize) -> Self {
        Self::with(formats, place, |_| count)
    }

    /// `count` says how many copies there are of so many bytes.
    fn with(formats: &[Format], place: Place, count: impl Fn(usize) -> usize) -> Self {
        let models: Vec<(Format, Vec<Array>)> =
            formats.iter().map(|&format| (format, format.make())).collect();
        let bytes: usize = models.iter().flat_map(|(_, arrays)| arrays).map(Array::nbytes).sum();
        let count = count(bytes);
        let mut file = (place == Place::MappedFile).then(|| MappedCopies::write(&models, count));
        let mut copy = |format: Format, arrays: &[Array]| {
            let arrays = arrays.iter().map(|array| match &mut file {
                Some(file) => file.next(array),
                None => copied(array),
            });
            Weight { format, arrays: arrays.collect() }
        };
        let copies: Vec<Vec<Weight>> = (0..count)
            .map(|_| models.iter().map(|(format, arrays)| copy(*format, arrays)).collect())
            .collect();
        let arrays = || copies.iter().flatten().flat_map(|weight| &weight.arrays);
        let words: Vec<Array> = arrays().map(|array| array.view_dtype(Dtype::Uint32).unwrap()).collect();
        eval(arrays().chain(&words)).unwrap();
        Self { copies, words, bytes, _file: file.map(|file| file.mapped) }
    }

    /// Everything, for a plain read.
    pub(crate) fn words(&self) -> Vec<&[u32]> {
        self.words.iter().map(|array| array.as_slice()).collect()
    }

    /// One copy of them.
    pub(crate) fn words_of(&self, copy: usize) -> impl Iterator<Item = &[u32]> {
        let arrays = self.words.len() / self.copies.len();
        self.words[copy * arrays..][..arrays].iter().map(|array| array.as_slice())
    }

    /// Bytes of all copies.
    pub(crate) fn all_bytes(&self) -> f64 {
        (self.bytes * self.copies.len()) as f64
    }
}

/// A file with many copies, and where the next array is in it.
struct MappedCopies {
    mapped: MappedFile,
    offset: u64,
}

impl MappedCopies {
    fn write(models: &[(Format, Vec<Array>)], count: usize) -> Self {
        // Beside the build's other files: a folder for temporary files may be memory instead of a disk.
        let mut file: File = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let arrays: Vec<Vec<u8>> = models.iter().flat_map(|(_, arrays)| arrays).map(padded).collect();
        for bytes in (0..count).flat_map(|_| &arrays) {
            file.write_all(bytes).unwrap();
        }
        // Dirty pages would be written out while the kernels are measured.
        file.sync_all().unwrap();
        Self { mapped: MappedFile::map(&file).unwrap(), offset: 0 }
    }

    /// The next array, of the shape and type of `like`.
    fn next(&mut self, like: &Array) -> Array {
        let array = self.mapped.array(self.offset, like.shape(), like.dtype()).unwrap();
        self.offset += (like.nbytes() as u64).next_multiple_of(ALIGN);
        array
    }
}

/// The array's bytes and what aligns the next one.
fn padded(array: &Array) -> Vec<u8> {
    let mut bytes = match array.dtype() {
        Dtype::Uint32 => {
            array.as_slice::<u32>().iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()
        }
        Dtype::Uint8 => array.as_slice::<u8>().to_vec(),
        Dtype::Float16 => array.as_slice::<f16>().iter().flat_map(|value| value.to_le_bytes()).collect(),
        Dtype::Bfloat16 => array.as_slice::<bf16>().iter().flat_map(|value| value.to_le_bytes()).collect(),
        other => panic!("no weight is stored as {other:?}"),
    };
    bytes.resize((bytes.len() as u64).next_multiple_of(ALIGN) as usize, 0);
    bytes
}

/// The same in memory of its own.
fn copied(array: &Array) -> Array {
    match array.dtype() {
        Dtype::Uint32 => Array::from_slice(array.as_slice::<u32>(), array.shape()),
        Dtype::Uint8 => Array::from_slice(array.as_slice::<u8>(), array.shape()),
        Dtype::Float16 => Array::from_slice(array.as_slice::<f16>(), array.shape()),
        Dtype::Bfloat16 => Array::from_slice(array.as_slice::<bf16>(), array.shape()),
        other => panic!("no weight is stored as {other:?}"),
    }
}
