//! GGUF v2 and v3: header, metadata, and where each tensor is.
//!
//! Every count and length is compared with what is left of the file, or with a
//! limit, before anything is allocated for it.

use std::{collections::HashSet, io::Read};

use super::{
    GgufError,
    metadata::{Metadata, Value},
    types::TensorType,
};

/// Bytes of header, metadata and tensor list together. A vocabulary of 262144
/// tokens takes about 10 MB.
const MAX_HEADER: u64 = 128 << 20;
/// Array elements in all metadata. The same vocabulary with merges: 1.3 million.
const MAX_ELEMENTS: u64 = 8 << 20;
const MAX_TENSORS: u64 = 1 << 16;
const MAX_KEYS: u64 = 1 << 16;
const MAX_DIMS: u32 = 4;
/// Largest `general.alignment`.
const MAX_ALIGNMENT: u64 = 1 << 16;
const DEFAULT_ALIGNMENT: u64 = 32;

/// What a GGUF file contains, without its tensors' bytes.
#[derive(Debug)]
pub(crate) struct Gguf {
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Vec<Tensor>,
}

/// A tensor's place. Inside the file, by construction.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) kind: TensorType,
    /// Row-major, the slowest dimension first (GGUF stores it the other way round).
    pub(crate) shape: Vec<u64>,
    /// From the start of the file.
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// The header's bytes, counted.
struct Cursor<R> {
    inner: R,
    consumed: u64,
    /// Bytes that may still be read: of the file, and of [`MAX_HEADER`].
    left: u64,
    elements_left: u64,
}

impl Gguf {
    /// Reads the header of a file of `file_len` bytes from its start.
    pub(crate) fn read(reader: impl Read, file_len: u64) -> Result<Self, GgufError> {
        let left = file_len.min(MAX_HEADER);
        let mut cursor = Cursor { inner: reader, consumed: 0, left, elements_left: MAX_ELEMENTS };
        if file_len < 4 || &cursor.bytes::<4>("the first bytes")? != b"GGUF" {
            return Err(GgufError::NotGguf);
        }
        let version = cursor.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version(version));
        }
        let tensor_count = cursor.count("the number of tensors", MAX_TENSORS)?;
        let key_count = cursor.count("the number of keys", MAX_KEYS)?;

        let mut metadata = Metadata::default();
        for _ in 0..key_count {
            let key = cursor.text("a key")?;
            let kind = cursor.u32("the type of a value")?;
            let value = cursor.value(kind, true)?;
            if !metadata.insert(key.clone(), value) {
                return Err(GgufError::Damaged(format!("the key `{key}` occurs twice")));
            }
        }
        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            tensors.push(cursor.tensor()?);
        }
        let alignment = metadata.unsigned("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
            return Err(GgufError::Damaged(format!("the alignment is {alignment}")));
        }
        place(&mut tensors, cursor.consumed.next_multiple_of(alignment), alignment, file_len)?;
        Ok(Self { metadata, tensors })
    }
}

/// Makes the tensors' offsets relative to the file and checks that each lies in it.
fn place(tensors: &mut [Tensor], data_start: u64, alignment: u64, file_len: u64) -> Result<(), GgufError> {
    let mut names = HashSet::new();
    let mut total = 0_u64;
    for tensor in tensors {
        if !names.insert(tensor.name.clone()) {
            return Err(GgufError::Damaged(format!("the tensor `{}` occurs twice", tensor.name)));
        }
        if !tensor.offset.is_multiple_of(alignment) {
            return Err(GgufError::Damaged(format!("the tensor `{}` is not aligned", tensor.name)));
        }
        let offset = data_start.checked_add(tensor.offset);
        let end = offset.and_then(|offset| offset.checked_add(tensor.len));
        match (offset, end) {
            (Some(offset), Some(end)) if end <= file_len => tensor.offset = offset,
            _ => return Err(GgufError::Truncated("the tensors")),
        }
        total = total.saturating_add(tensor.len);
    }
    // Tensors on top of each other would let a small file grow without limit.
    if total > file_len {
        return Err(GgufError::Damaged("tensors overlap".to_owned()));
    }
    Ok(())
}

impl<R: Read> Cursor<R> {
    fn bytes<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let mut bytes = [0; N];
        self.spend(N as u64, what)?;
        self.inner.read_exact(&mut bytes).map_err(|error| truncated(error, what))?;
        Ok(bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.bytes(what)?))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.bytes(what)?))
    }

    fn count(&mut self, what: &'static str, limit: u64) -> Result<u64, GgufError> {
        let count = self.u64(what)?;
        if count > limit {
            return Err(GgufError::Damaged(format!("{what} is {count}, more than {limit}")));
        }
        Ok(count)
    }

    fn text(&mut self, what: &'static str) -> Result<String, GgufError> {
        let len = self.u64(what)?;
        self.spend(len, what)?;
        // No larger than what the file still has.
        let mut bytes = vec![0; len as usize];
        self.inner.read_exact(&mut bytes).map_err(|error| truncated(error, what))?;
        String::from_utf8(bytes).map_err(|_| GgufError::Damaged(format!("{what} is not UTF-8")))
    }

    fn value(&mut self, kind: u32, arrays: bool) -> Result<Value, GgufError> {
        let what = "a value";
        Ok(match kind {
            0 => Value::Unsigned(u8::from_le_bytes(self.bytes(what)?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.bytes(what)?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.bytes(what)?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.bytes(what)?).into()),
            4 => Value::Unsigned(self.u32(what)?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.bytes(what)?).into()),
            6 => Value::Float(widen(f32::from_le_bytes(self.bytes(what)?))),
            7 => Value::Bool(self.bytes::<1>(what)? != [0]),
            8 => Value::Text(self.text(what)?),
            9 if arrays => self.array()?,
            10 => Value::Unsigned(self.u64(what)?),
            11 => Value::Signed(i64::from_le_bytes(self.bytes(what)?)),
            12 => Value::Float(f64::from_le_bytes(self.bytes(what)?)),
            9 => return Err(GgufError::Unsupported("its metadata has an array of arrays".to_owned())),
            other => return Err(GgufError::Damaged(format!("a value has the unknown type {other}"))),
        })
    }

    fn array(&mut self) -> Result<Value, GgufError> {
        let kind = self.u32("the type of an array")?;
        let len = self.count("the length of an array", self.elements_left)?;
        self.elements_left -= len;
        // Each element takes at least a byte, so this is bounded by the file as well.
        let mut values = Vec::with_capacity(len.min(self.left) as usize);
        for _ in 0..len {
            values.push(self.value(kind, false)?);
        }
        Ok(Value::Array(values))
    }

    fn tensor(&mut self) -> Result<Tensor, GgufError> {
        let name = self.text("the name of a tensor")?;
        let what = "the description of a tensor";
        let dims = self.u32(what)?;
        if !(1..=MAX_DIMS).contains(&dims) {
            return Err(GgufError::Damaged(format!("tensor `{name}` has {dims} dimensions")));
        }
        let mut shape = (0..dims).map(|_| self.u64(what)).collect::<Result<Vec<u64>, _>>()?;
        shape.reverse();
        let kind = TensorType::of_number(self.u32(what)?, &name)?;
        let offset = self.u64(what)?;
        let len = kind.byte_len(&shape);
        let len =
            len.ok_or_else(|| GgufError::Damaged(format!("tensor `{name}` has an impossible shape")))?;
        Ok(Tensor { name, kind, shape, offset, len })
    }

    fn spend(&mut self, bytes: u64, what: &'static str) -> Result<(), GgufError> {
        self.left = self.left.checked_sub(bytes).ok_or(GgufError::Truncated(what))?;
        self.consumed += bytes;
        Ok(())
    }
}

/// The double nearest to the float's shortest decimal form.
fn widen(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn truncated(error: std::io::Error, what: &'static str) -> GgufError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => GgufError::Truncated(what),
        _ => error.into(),
    }
}
