//! Headers of safetensors files: read with a bound, written with padding.

use std::{
    collections::HashMap,
    io::{self, Read},
};

use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};

use crate::manifest::byte_len;

/// Longest header, as in the safetensors library.
const MAX_HEADER: u64 = 100_000_000;
/// The 8 bytes before the header, which hold its length.
const LENGTH_FIELD: u64 = 8;
/// The data part of files written here begins at a multiple of this.
pub(crate) const DATA_ALIGNMENT: u64 = 64;

/// A tensor as a safetensors header describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeaderTensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    /// From the start of the file.
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// Why a file is not a safetensors file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("it ends inside the safetensors header")]
    Truncated,
    #[error("its safetensors header claims {0} bytes, more than the file or the format allows")]
    TooLong(u64),
    #[error("its safetensors header is not valid: {0}")]
    Invalid(String),
    #[error("its header describes {described} bytes and the file has {actual}")]
    WrongSize { described: u64, actual: u64 },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads and checks the header of a file of `file_len` bytes. Tensors come in
/// the order of their data; they cover the data part without gap or overlap.
pub(crate) fn read_header(reader: &mut impl Read, file_len: u64) -> Result<Vec<HeaderTensor>, HeaderError> {
    let mut length = [0; LENGTH_FIELD as usize];
    reader.read_exact(&mut length).map_err(truncated)?;
    let header_len = u64::from_le_bytes(length);
    if header_len > MAX_HEADER.min(file_len.saturating_sub(LENGTH_FIELD)) {
        return Err(HeaderError::TooLong(header_len));
    }
    let mut header = vec![0; header_len as usize];
    reader.read_exact(&mut header).map_err(truncated)?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| HeaderError::Invalid(error.to_string()))?;

    let data_start = LENGTH_FIELD + header_len;
    let described = (metadata.data_len() as u64).saturating_add(data_start);
    if described != file_len {
        return Err(HeaderError::WrongSize { described, actual: file_len });
    }
    Ok(tensors_of(&metadata, data_start))
}

fn tensors_of(metadata: &Metadata, data_start: u64) -> Vec<HeaderTensor> {
    let describe = |name: String| {
        let info = metadata.info(&name)?;
        let (start, end) = info.data_offsets;
        Some(HeaderTensor {
            dtype: info.dtype,
            shape: info.shape.iter().map(|&dim| dim as u64).collect(),
            offset: data_start + start as u64,
            len: (end - start) as u64,
            name,
        })
    };
    metadata.offset_keys().into_iter().filter_map(describe).collect()
}

/// The first bytes of a safetensors file whose data are `tensors`, in this
/// order and without gaps: length, header, and spaces up to a multiple of
/// [`DATA_ALIGNMENT`]. The file's own offsets come back with it.
pub(crate) fn write_header(
    tensors: Vec<(String, Dtype, Vec<u64>)>,
) -> Result<(Vec<u8>, Vec<HeaderTensor>), HeaderError> {
    let invalid = |text: &str| HeaderError::Invalid(text.to_owned());
    let mut infos = Vec::with_capacity(tensors.len());
    let mut end = 0_u64;
    for (name, dtype, shape) in tensors {
        let start = end;
        let len = byte_len(dtype, &shape).ok_or_else(|| invalid("a shape overflows"))?;
        end = start.checked_add(len).ok_or_else(|| invalid("the sizes overflow"))?;
        let shape = shape.into_iter().map(|dim| dim as usize).collect();
        infos.push((name, TensorInfo { dtype, shape, data_offsets: (start as usize, end as usize) }));
    }
    // "format" tells other readers that nothing needs transposing.
    let format = HashMap::from([("format".to_owned(), "mlx".to_owned())]);
    let metadata = Metadata::new(Some(format), infos).map_err(|e| HeaderError::Invalid(e.to_string()))?;
    let json = serde_json::to_vec(&metadata).map_err(|e| HeaderError::Invalid(e.to_string()))?;

    let data_start = (LENGTH_FIELD + json.len() as u64).next_multiple_of(DATA_ALIGNMENT);
    let mut bytes = (data_start - LENGTH_FIELD).to_le_bytes().to_vec();
    bytes.extend(json);
    bytes.resize(data_start as usize, b' ');
    Ok((bytes, tensors_of(&metadata, data_start)))
}

/// An order in which each tensor starts at a multiple of 64, or of the largest
/// power of two that divides its length if that is smaller (so always of its
/// element size): lengths divisible by 64 first, as given, then by how far
/// they are divisible. Sorting is stable.
pub(crate) fn alignment_rank(len: u64) -> u32 {
    let alignment = if len == 0 { DATA_ALIGNMENT } else { 1 << len.trailing_zeros().min(6) };
    (DATA_ALIGNMENT / alignment) as u32
}

fn truncated(error: io::Error) -> HeaderError {
    if error.kind() == io::ErrorKind::UnexpectedEof { HeaderError::Truncated } else { error.into() }
}
