//! Arrays over a file's bytes, without a copy.

#![allow(unsafe_code)]

#[cfg(target_os = "linux")]
use std::ffi::c_char;
use std::{
    ffi::{c_int, c_void},
    fs::File,
    io,
    sync::Arc,
};

use mlx_rs::{Array, Dtype, error::Exception, ops::indexing::TryIndexOp};
use thiserror::Error;

#[cfg(target_os = "linux")]
use crate::cpu;
#[cfg(not(target_os = "linux"))]
use crate::errors;
use crate::region::{Region, UNIT};

/// A file mapped into memory, and the MLX array over all of its bytes that tensors are views of.
///
/// Arrays made by [`array`](Self::array) keep the mapping alive; the handle may be dropped before
/// them. Keep it for as long as they are computed with: MLX may write a result into the memory of an
/// array that nothing else shares, and the handle is what shares it. On Linux such a write goes to a
/// page of its own; on macOS the mapping is read-only, and the GPU would fault.
///
/// The file must not be shortened while it is mapped: reading past its new end would kill the
/// process. (The artifact store's blobs are immutable.)
#[derive(Debug)]
pub struct MappedFile {
    /// uint8 `[padded length / UNIT, UNIT]`. Two axes, because MLX's are 32-bit: one axis of bytes
    /// would end at 2 GiB.
    base: Array,
    region: Arc<Region>,
}

/// Why a file could not be mapped, or a part of it not be made an array.
#[derive(Debug, Error)]
pub enum MapError {
    /// The system refused the mapping.
    #[error("cannot map the file into memory")]
    Map(#[from] io::Error),
    /// There is nothing to map.
    #[error("the file is empty")]
    Empty,
    /// MLX's allocator did not take the memory as it is (a limit of the device, or out of memory).
    #[error("MLX does not accept a mapping of {len} bytes without copying it")]
    NotWrapped {
        /// Length of the file in bytes.
        len: u64,
        /// MLX's reason.
        source: Exception,
    },
    /// The shape has a dimension below one, or more elements than MLX can index.
    #[error("an array of shape {shape:?} cannot be made over a file")]
    Shape {
        /// The shape that was asked for.
        shape: Vec<i32>,
    },
    /// The array would end after the file.
    #[error("bytes {offset} to {end} are asked for, but the file has only {len}")]
    OutOfRange {
        /// First byte of the array.
        offset: u64,
        /// The byte after its last.
        end: u64,
        /// Length of the file in bytes.
        len: u64,
    },
    /// The array would not start at a multiple of its element's size.
    #[error("offset {offset} is not a multiple of {dtype:?}'s size")]
    Misaligned {
        /// First byte of the array.
        offset: u64,
        /// Type of its elements.
        dtype: Dtype,
    },
    /// MLX refused an operation.
    #[error(transparent)]
    Mlx(#[from] Exception),
}

impl MappedFile {
    /// Maps all of `file`. Reads nothing: pages come in when they are touched.
    ///
    /// # Errors
    /// [`MapError::Empty`], [`MapError::Map`], [`MapError::NotWrapped`].
    pub fn map(file: &File) -> Result<Self, MapError> {
        if file.metadata()?.len() == 0 {
            return Err(MapError::Empty);
        }
        let region = Arc::new(Region::map(file)?);
        let base =
            wrap(&region).map_err(|source| MapError::NotWrapped { len: region.file_len() as u64, source })?;
        Ok(Self { base, region })
    }

    /// The file's length in bytes; never 0.
    #[allow(clippy::len_without_is_empty)] // an empty file is refused by `map`
    pub fn len(&self) -> u64 {
        self.region.file_len() as u64
    }

    /// Address of the file's first byte, for comparing with arrays' addresses.
    pub fn addr(&self) -> usize {
        self.region.data().addr()
    }

    /// An array of `shape` over the file's bytes from `offset` on, row-major, without a copy.
    ///
    /// The array is a lazy view that belongs to the calling thread until it is evaluated;
    /// evaluating it touches none of the bytes. An empty shape makes a scalar.
    ///
    /// # Errors
    /// [`MapError::Shape`], [`MapError::OutOfRange`], [`MapError::Misaligned`], [`MapError::Mlx`].
    pub fn array(&self, offset: u64, shape: &[i32], dtype: Dtype) -> Result<Array, MapError> {
        let part = Part::new(offset, shape, dtype, self.len())?;
        if !offset.is_multiple_of(dtype_size(dtype)) {
            return Err(MapError::Misaligned { offset, dtype });
        }
        let rows = self.base.view_dtype(dtype)?;
        let flat = rows
            .try_index(part.first_row..part.end_row)?
            .reshape(&[-1])?
            .try_index(part.start..part.start + part.elements)?;
        Ok(flat.reshape(shape)?)
    }

    /// The same in memory of its own, from any offset: not every writer of files aligns what it writes.
    ///
    /// # Errors
    /// [`MapError::Shape`], [`MapError::OutOfRange`], [`MapError::Mlx`].
    pub fn copy(&self, offset: u64, shape: &[i32], dtype: Dtype) -> Result<Array, MapError> {
        Part::new(offset, shape, dtype, self.len())?;
        let bad_shape = || MapError::Shape { shape: shape.to_vec() };
        let size = i32::try_from(dtype_size(dtype)).map_err(|_| bad_shape())?;
        let mut of_bytes = shape.to_vec();
        match of_bytes.last_mut() {
            Some(last) => *last = last.checked_mul(size).ok_or_else(bad_shape)?,
            None => of_bytes.push(size),
        }
        let start = usize::try_from(offset).map_err(|_| bad_shape())?;
        let data = self.region.data().wrapping_add(start).cast_const().cast();
        let dims = of_bytes.len() as c_int;
        // SAFETY: `offset` and the bytes that `of_bytes` stands for lie in the file, which `Part::new` has checked, and
        // with it in the mapping; MLX copies them before it returns, and needs no alignment for bytes.
        let array = unsafe {
            mlx_sys::mlx_array_new_data(data, of_bytes.as_ptr(), dims, mlx_sys::mlx_dtype__MLX_UINT8)
        };
        if array.ctx.is_null() {
            return Err(Exception::custom("no memory for a copy of a tensor").into());
        }
        // SAFETY: a non-null context is a new array, which the handle comes to own.
        let bytes = unsafe { Array::from_ptr(array) };
        Ok(bytes.view_dtype(dtype)?.reshape(shape)?)
    }
}

/// Where an array lies in the base: in rows of UNIT bytes, then in elements from the first row on.
struct Part {
    first_row: i32,
    end_row: i32,
    start: i32,
    elements: i32,
}

impl Part {
    fn new(offset: u64, shape: &[i32], dtype: Dtype, file_len: u64) -> Result<Self, MapError> {
        let bad_shape = || MapError::Shape { shape: shape.to_vec() };
        let mut elements: u64 = 1;
        for &dim in shape {
            let dim = u64::try_from(dim).ok().filter(|&dim| dim > 0);
            elements = dim.and_then(|dim| elements.checked_mul(dim)).ok_or_else(bad_shape)?;
        }
        let size = dtype_size(dtype);
        let bytes = elements.checked_mul(size).ok_or_else(bad_shape)?;
        let end = offset.saturating_add(bytes);
        if end > file_len {
            return Err(MapError::OutOfRange { offset, end, len: file_len });
        }
        let unit = UNIT as u64;
        let (first_row, end_row) = (offset / unit, end.div_ceil(unit));
        // The rows are flattened to one 32-bit axis of elements before the part is cut out.
        let fits = |value: u64| i32::try_from(value).map_err(|_| bad_shape());
        fits((end_row - first_row) * (unit / size))?;
        Ok(Self {
            first_row: fits(first_row)?,
            end_row: fits(end_row)?,
            start: fits((offset - first_row * unit) / size)?,
            elements: fits(elements)?,
        })
    }
}

fn dtype_size(dtype: Dtype) -> u64 {
    match dtype {
        Dtype::Bool | Dtype::Uint8 | Dtype::Int8 => 1,
        Dtype::Uint16 | Dtype::Int16 | Dtype::Float16 | Dtype::Bfloat16 => 2,
        Dtype::Uint32 | Dtype::Int32 | Dtype::Float32 => 4,
        Dtype::Uint64 | Dtype::Int64 | Dtype::Float64 | Dtype::Complex64 => 8,
    }
}

/// The base array over `region`, which it keeps alive; an error if MLX does not take it as it is.
fn wrap(region: &Arc<Region>) -> Result<Array, Exception> {
    let rows = i32::try_from(region.padded_len() / UNIT)
        .map_err(|_| Exception::custom("it has more rows of 16 KiB than an axis holds"))?;
    let shape = [rows, UNIT as i32];
    let payload = Arc::into_raw(Arc::clone(region)).cast_mut().cast::<c_void>();
    let array = wrap_shape(region, &shape, payload)?;
    // SAFETY: the array is made from a buffer, so its data pointer is set without an evaluation.
    let data = unsafe { mlx_sys::mlx_array_data_uint8(array.as_ptr()) };
    if !std::ptr::eq(data, region.data()) {
        return Err(Exception::custom("its allocator made a copy"));
    }
    Ok(array)
}

#[cfg(target_os = "linux")]
fn wrap_shape(region: &Region, shape: &[i32; 2], payload: *mut c_void) -> Result<Array, Exception> {
    unsafe extern "C" {
        /// See `cpp/no_copy.cpp`.
        fn mlx_ext_bytes_over(
            buffer: *mut c_void,
            shape: *const i32,
            dims: c_int,
            payload: *mut c_void,
            dropped: unsafe extern "C" fn(*mut c_void),
            message: *mut c_char,
            message_len: usize,
        ) -> *mut c_void;
    }
    // SAFETY: `buffer` is the size word before `padded_len` readable bytes, exactly what `shape`
    // covers; `shape` has two elements and is copied; `release` takes `payload` as made by `wrap`.
    // On failure (out of memory) nobody can say whether `release` ran, so the payload is left be:
    // a mapping leaks rather than being unmapped twice.
    cpu::array_from(|message, len| unsafe {
        mlx_ext_bytes_over(region.buffer(), shape.as_ptr(), 2, payload, release, message, len)
    })
}

#[cfg(not(target_os = "linux"))]
fn wrap_shape(region: &Region, shape: &[i32; 2], payload: *mut c_void) -> Result<Array, Exception> {
    errors::keep();
    // SAFETY: `data()` is page-aligned and readable for `padded_len` bytes, exactly what `shape`
    // covers; `shape` is copied; `release` takes `payload` as made by `wrap`. If MLX has to copy,
    // it calls `release` after the copy, and `wrap` notices by the address.
    let array = unsafe {
        mlx_sys::mlx_array_new_data_managed_payload(
            region.data().cast(),
            shape.as_ptr(),
            2,
            mlx_sys::mlx_dtype__MLX_UINT8,
            payload,
            Some(release),
        )
    };
    if array.ctx.is_null() {
        return Err(errors::last());
    }
    // SAFETY: a non-null context is a new array, which the handle comes to own.
    Ok(unsafe { Array::from_ptr(array) })
}

/// MLX's notice that no array shares the region any more; comes from any thread.
unsafe extern "C" fn release(payload: *mut c_void) {
    // SAFETY: `payload` is the Arc that `wrap` turned into a pointer, and MLX calls this once.
    drop(unsafe { Arc::from_raw(payload.cast::<Region>().cast_const()) });
}
