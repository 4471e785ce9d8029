//! MLX's packings of small floats, whose operations mlx-rs does not offer.
//!
//! A value is a float of 4 or 8 bits, times a scale of 8 bits that its group shares.
// Lifted here alone: the operations are mlx-c's.
#![allow(unsafe_code)]

use std::ffi::CStr;

use mlx_rs::{Array, Dtype, Stream, error::Exception};

use crate::errors;

/// Small floats with scales of 8 bits, as MLX names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MicroScaling {
    /// Floats of 4 bits (e2m1), in groups of 32 whose scales are powers of two (e8m0).
    Mxfp4,
    /// Floats of 8 bits (e4m3), in groups of 32 whose scales are powers of two (e8m0).
    Mxfp8,
    /// Floats of 4 bits (e2m1), in groups of 16 whose scales are floats of 8 bits (e4m3).
    Nvfp4,
}

impl MicroScaling {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mxfp4, Self::Mxfp8, Self::Nvfp4];

    /// MLX's name for it, which configurations have as `mode`.
    pub fn name(self) -> &'static str {
        self.mode().to_str().unwrap_or_default()
    }

    /// Values that share a scale.
    pub fn group_size(self) -> i32 {
        match self {
            Self::Mxfp4 | Self::Mxfp8 => 32,
            Self::Nvfp4 => 16,
        }
    }

    /// Bits of a value.
    pub fn bits(self) -> i32 {
        match self {
            Self::Mxfp4 | Self::Nvfp4 => 4,
            Self::Mxfp8 => 8,
        }
    }

    /// Packs floats `[outputs, inputs]`: uint32 `[outputs, inputs * bits / 32]`, and scales, uint8
    /// `[outputs, inputs / group_size]`. Lazy.
    ///
    /// # Errors
    /// MLX can't pack such an array.
    pub fn quantize(self, values: &Array) -> Result<(Array, Array), Exception> {
        errors::keep();
        let [mut packed, mut scales] = [empty(), empty()];
        let stream = Stream::thread_local_or_default();
        // SAFETY: the arrays are alive; the vector is this function's own and freed, and what is taken out of it is owned by
        // the handles.
        let failed = unsafe {
            let mut parts = mlx_sys::mlx_vector_array_new();
            let failed = mlx_sys::mlx_quantize(
                &raw mut parts,
                values.as_ptr(),
                some(self.group_size()),
                some(self.bits()),
                self.mode().as_ptr(),
                empty(),
                stream.as_ptr(),
            );
            let failed = failed != 0
                || mlx_sys::mlx_vector_array_size(parts) != 2
                || mlx_sys::mlx_vector_array_get(&raw mut packed, parts, 0) != 0
                || mlx_sys::mlx_vector_array_get(&raw mut scales, parts, 1) != 0;
            mlx_sys::mlx_vector_array_free(parts);
            failed
        };
        let [packed, scales] = [packed, scales].map(handle);
        if failed { Err(self.refusal("pack")) } else { Ok((packed, scales)) }
    }

    /// The values of what is packed, rounded to `dtype`. Lazy.
    ///
    /// # Errors
    /// Shapes or types that do not fit.
    pub fn dequantize(self, packed: &Array, scales: &Array, dtype: Dtype) -> Result<Array, Exception> {
        errors::keep();
        let mut values = empty();
        let stream = Stream::thread_local_or_default();
        let dtype = mlx_sys::mlx_optional_dtype { value: dtype.into(), has_value: true };
        // SAFETY: the arrays are alive, and null stands for the ones that this packing does not have.
        let failed = unsafe {
            mlx_sys::mlx_dequantize(
                &raw mut values,
                packed.as_ptr(),
                scales.as_ptr(),
                empty(),
                some(self.group_size()),
                some(self.bits()),
                self.mode().as_ptr(),
                empty(),
                dtype,
                stream.as_ptr(),
            )
        };
        let values = handle(values);
        if failed != 0 { Err(self.refusal("expand")) } else { Ok(values) }
    }

    /// `x Wᵀ` for a packed W `[outputs, inputs]`, in the type of `x`. Lazy.
    ///
    /// # Errors
    /// Shapes or types that do not fit.
    pub fn multiply(self, x: &Array, packed: &Array, scales: &Array) -> Result<Array, Exception> {
        errors::keep();
        let mut product = empty();
        let stream = Stream::thread_local_or_default();
        // SAFETY: as in `dequantize`.
        let failed = unsafe {
            mlx_sys::mlx_quantized_matmul(
                &raw mut product,
                x.as_ptr(),
                packed.as_ptr(),
                scales.as_ptr(),
                empty(),
                true,
                some(self.group_size()),
                some(self.bits()),
                self.mode().as_ptr(),
                stream.as_ptr(),
            )
        };
        let product = handle(product);
        if failed != 0 { Err(self.refusal("multiply by")) } else { Ok(product) }
    }

    /// The same of vectors `x` `[vectors, 1, inputs]`, each with the W of `[matrices, outputs, inputs]` whose index `which`
    /// has: uint32 `[vectors]`, `sorted` or not.
    ///
    /// # Errors
    /// Shapes or types that do not fit.
    pub fn multiply_gathered(
        self,
        x: &Array,
        (packed, scales): (&Array, &Array),
        which: &Array,
        sorted: bool,
    ) -> Result<Array, Exception> {
        errors::keep();
        let mut product = empty();
        let stream = Stream::thread_local_or_default();
        // SAFETY: as in `dequantize`; no index of `x` stands for all of its vectors in turn.
        let failed = unsafe {
            mlx_sys::mlx_gather_qmm(
                &raw mut product,
                x.as_ptr(),
                packed.as_ptr(),
                scales.as_ptr(),
                empty(),
                empty(),
                which.as_ptr(),
                true,
                some(self.group_size()),
                some(self.bits()),
                self.mode().as_ptr(),
                sorted,
                stream.as_ptr(),
            )
        };
        let product = handle(product);
        if failed != 0 { Err(self.refusal("multiply by")) } else { Ok(product) }
    }

    fn mode(self) -> &'static CStr {
        match self {
            Self::Mxfp4 => c"mxfp4",
            Self::Mxfp8 => c"mxfp8",
            Self::Nvfp4 => c"nvfp4",
        }
    }

    /// Why the operation that has just failed did.
    fn refusal(self, what: &str) -> Exception {
        Exception::custom(format!("MLX can't {what} {}: {}", self.name(), errors::last().what()))
    }
}

/// What an operation has made: an array, or nothing if it failed.
fn handle(array: mlx_sys::mlx_array) -> Array {
    // SAFETY: an array that nothing else owns, or one without a context; the handle frees either.
    unsafe { Array::from_ptr(array) }
}

/// No array.
fn empty() -> mlx_sys::mlx_array {
    mlx_sys::mlx_array_ { ctx: std::ptr::null_mut() }
}

fn some(value: i32) -> mlx_sys::mlx_optional_int {
    mlx_sys::mlx_optional_int { value, has_value: true }
}
