//! The C++ functions behind this module. They are built on Linux only, whose only backend is the CPU; elsewhere functions
//! of the same names stand in, which make nothing and say so.

use std::ffi::{c_char, c_int, c_void};
#[cfg(not(target_os = "linux"))]
use std::ptr::null_mut;

/// What a caller of a primitive is told elsewhere.
pub(super) const ABSENT: &std::ffi::CStr = c"the CPU primitives are built on Linux only; use the GPU";

/// `MlxExtMatrix` of `matrix_arrays.h`.
#[repr(C)]
pub(super) struct RawMatrix {
    pub(super) weight: *mut c_void,
    /// Null: a dense matrix.
    pub(super) scales: *mut c_void,
    /// Null of a quantized matrix: it is packed as mxfp4.
    pub(super) biases: *mut c_void,
    pub(super) bias: *mut c_void,
    pub(super) group: c_int,
    pub(super) bits: c_int,
}

/// `MlxExtLinear` of `linear_operation.cpp`.
#[repr(C)]
pub(super) struct RawLinear {
    pub(super) x: *mut c_void,
    pub(super) norm: *mut c_void,
    pub(super) residual: *mut c_void,
    pub(super) matrices: *const RawMatrix,
    pub(super) matrix_count: c_int,
    pub(super) eps: f32,
    pub(super) gate: c_int,
    pub(super) int8: c_int,
}

/// `MlxExtNormedPart` of `rowwise_operation.cpp`.
#[repr(C)]
pub(super) struct RawNormedPart {
    pub(super) weight: *mut c_void,
    pub(super) bias: *mut c_void,
    pub(super) eps: f32,
    pub(super) layer: c_int,
    pub(super) count: c_int,
}

/// `MlxExtRowwise` of `rowwise_operation.cpp`.
#[repr(C)]
pub(super) struct RawRowwise {
    pub(super) x: *mut c_void,
    pub(super) residual: *mut c_void,
    pub(super) parts: *const RawNormedPart,
    pub(super) part_count: c_int,
    pub(super) gelu: c_int,
    pub(super) factor: f32,
    pub(super) soft_cap: f32,
}

/// `MlxExtHeadProducts` of `head_products_operation.cpp`.
#[repr(C)]
pub(super) struct RawHeadProducts {
    pub(super) x: *mut c_void,
    pub(super) matrix: *const RawMatrix,
    pub(super) heads: c_int,
    pub(super) inputs: c_int,
    pub(super) first_input: c_int,
    pub(super) first_copied: c_int,
    pub(super) copied: c_int,
    pub(super) first_row: c_int,
    pub(super) outputs: c_int,
    pub(super) int8: c_int,
}

/// Opaque.
#[repr(C)]
pub(super) struct RawExpertSet {
    _opaque: [u8; 0],
}

/// `MlxExtExperts` of `experts_operation.cpp`.
#[repr(C)]
pub(super) struct RawExperts {
    pub(super) x: *mut c_void,
    pub(super) router: *mut c_void,
    pub(super) correction: *mut c_void,
    pub(super) factors: *mut c_void,
    pub(super) residual: *mut c_void,
    pub(super) set: *const RawExpertSet,
    pub(super) chosen: c_int,
    pub(super) scores: c_int,
    pub(super) groups: c_int,
    pub(super) chosen_groups: c_int,
    pub(super) best_of_group: c_int,
    pub(super) normalized: c_int,
    pub(super) least_sum: f32,
    pub(super) factor: f32,
    pub(super) weighs_inputs: c_int,
    pub(super) gate: c_int,
    pub(super) int8: c_int,
}

/// Opaque.
#[repr(C)]
pub(super) struct RawPool {
    _opaque: [u8; 0],
}

/// Opaque.
#[repr(C)]
pub(super) struct RawStep {
    _opaque: [u8; 0],
}

/// `MlxExtStepRow` of `attention_operation.cpp`.
#[repr(C)]
pub(super) struct RawRow {
    pub(super) first_token: c_int,
    pub(super) new_tokens: c_int,
    pub(super) position: c_int,
    pub(super) first_block: c_int,
}

/// `MlxExtAttention` of `attention_operation.cpp`.
#[repr(C)]
pub(super) struct RawAttention {
    pub(super) qkv: *mut c_void,
    pub(super) cos: *mut c_void,
    pub(super) sin: *mut c_void,
    pub(super) query_scale: *mut c_void,
    pub(super) sinks: *mut c_void,
    pub(super) step: *const RawStep,
    pub(super) layer: c_int,
    pub(super) heads: c_int,
    pub(super) scale: f32,
    pub(super) soft_cap: f32,
    pub(super) window: c_int,
    pub(super) traditional: c_int,
    pub(super) chunked: c_int,
    pub(super) appends: c_int,
}

/// Opaque.
#[repr(C)]
pub(super) struct RawStatePool {
    _opaque: [u8; 0],
}

/// Opaque.
#[repr(C)]
pub(super) struct RawStateStep {
    _opaque: [u8; 0],
}

/// `MlxExtStateRow` of `recurrent_operation.cpp`.
#[repr(C)]
pub(super) struct RawStateRow {
    pub(super) new_tokens: c_int,
    pub(super) from: c_int,
    pub(super) to: c_int,
    pub(super) snapshot_count: c_int,
}

/// `MlxExtStateSnapshot` of `recurrent_operation.cpp`.
#[repr(C)]
pub(super) struct RawStateSnapshot {
    pub(super) after: c_int,
    pub(super) to: c_int,
}

/// `MlxExtConvolution` of `recurrent_operation.cpp`.
#[repr(C)]
pub(super) struct RawConvolution {
    pub(super) x: *mut c_void,
    pub(super) weight: *mut c_void,
    pub(super) bias: *mut c_void,
    pub(super) step: *const RawStateStep,
    pub(super) state_at: usize,
    pub(super) gated: c_int,
    pub(super) silu: c_int,
}

/// `MlxExtGatedDelta` of `recurrent_operation.cpp`.
#[repr(C)]
pub(super) struct RawGatedDelta {
    pub(super) qkv: *mut c_void,
    pub(super) gates: *mut c_void,
    pub(super) log_rates: *mut c_void,
    pub(super) biases: *mut c_void,
    pub(super) step: *const RawStateStep,
    pub(super) state_at: usize,
    pub(super) key_heads: c_int,
    pub(super) value_heads: c_int,
    pub(super) key_dim: c_int,
    pub(super) value_dim: c_int,
}

/// `MlxExtGated` of `gated_operation.cpp`.
#[repr(C)]
pub(super) struct RawGated {
    pub(super) x: *mut c_void,
    pub(super) gate: *mut c_void,
    pub(super) residual: *mut c_void,
    pub(super) activation: c_int,
}

/// `MlxExtPiece` of `gated_operation.cpp`.
#[repr(C)]
pub(super) struct RawPiece {
    pub(super) first: c_int,
    pub(super) count: c_int,
}

/// Declares each function; what follows `=` is what its stand-in returns.
macro_rules! foreign {
    ($(fn $name:ident($($argument:ident: $of:ty),*) $(-> $result:ty)? = $absent:expr;)*) => {
        #[cfg(target_os = "linux")]
        unsafe extern "C" {
            $(pub(super) fn $name($($argument: $of),*) $(-> $result)?;)*
        }
        $(
            #[cfg(not(target_os = "linux"))]
            pub(super) unsafe fn $name($($argument: $of),*) $(-> $result)? {
                $(let _ = $argument;)*
                $absent
            }
        )*
    };
}

foreign! {
    fn mlx_ext_instructions() -> *const c_char = c"none".as_ptr();
    fn mlx_ext_threads() -> c_int = 0;
    fn mlx_ext_progress() -> u64 = 0;

    fn mlx_ext_compute(array: *mut c_void, message: *mut c_char, message_len: usize) -> c_int
        = { absent(message, message_len); 0 };
    fn mlx_ext_linear(spec: *const RawLinear, message: *mut c_char, message_len: usize) -> *mut c_void
        = absent(message, message_len);
    fn mlx_ext_gate_up(x: *mut c_void, gate: c_int, message: *mut c_char, message_len: usize) -> *mut c_void
        = absent(message, message_len);
    fn mlx_ext_embedding(
        tokens: *mut c_void, matrix: *const RawMatrix, inputs: c_int, message: *mut c_char, message_len: usize
    ) -> *mut c_void = absent(message, message_len);
    fn mlx_ext_head_products(spec: *const RawHeadProducts, message: *mut c_char, message_len: usize) -> *mut c_void
        = absent(message, message_len);
    fn mlx_ext_rowwise(spec: *const RawRowwise, message: *mut c_char, message_len: usize) -> *mut c_void
        = absent(message, message_len);

    fn mlx_ext_expert_set_new(
        matrices: *const RawMatrix, experts: c_int, inputs: c_int, inner: c_int, message: *mut c_char,
        message_len: usize
    ) -> *mut RawExpertSet = { absent(message, message_len); null_mut() };
    fn mlx_ext_expert_set_free(set: *mut RawExpertSet) = ();
    fn mlx_ext_experts(spec: *const RawExperts, message: *mut c_char, message_len: usize) -> *mut c_void
        = absent(message, message_len);

    fn mlx_ext_kv_pool_new(
        layers: c_int, kv_heads: c_int, head_dim: c_int, block_tokens: c_int, half: c_int, blocks: c_int
    ) -> *mut RawPool = null_mut();
    fn mlx_ext_kv_pool_copy(
        pool: *const RawPool, from: c_int, to: c_int, message: *mut c_char, message_len: usize
    ) -> c_int = { absent(message, message_len); 0 };
    fn mlx_ext_kv_pool_read(
        pool: *const RawPool, block: c_int, bytes: *mut c_char, message: *mut c_char, message_len: usize
    ) -> c_int = { absent(message, message_len); 0 };
    fn mlx_ext_kv_pool_write(
        pool: *const RawPool, block: c_int, bytes: *const c_char, message: *mut c_char, message_len: usize
    ) -> c_int = { absent(message, message_len); 0 };
    fn mlx_ext_kv_pool_free(pool: *mut RawPool) = ();
    fn mlx_ext_step_new(
        pool: *const RawPool, rows: *const RawRow, row_count: c_int, blocks: *const i32, block_count: c_int,
        tokens: c_int
    ) -> *mut RawStep = null_mut();
    fn mlx_ext_step_free(step: *mut RawStep) = ();
    fn mlx_ext_attention(spec: *const RawAttention, message: *mut c_char, message_len: usize) -> *mut c_void
        = absent(message, message_len);

    fn mlx_ext_state_pool_new(floats: usize, states: c_int) -> *mut RawStatePool = null_mut();
    fn mlx_ext_state_pool_free(pool: *mut RawStatePool) = ();
    fn mlx_ext_state_step_new(
        pool: *const RawStatePool, rows: *const RawStateRow, row_count: c_int,
        snapshots: *const RawStateSnapshot, snapshot_count: c_int
    ) -> *mut RawStateStep = null_mut();
    fn mlx_ext_state_step_free(step: *mut RawStateStep) = ();
    fn mlx_ext_convolution(
        spec: *const RawConvolution, message: *mut c_char, message_len: usize
    ) -> *mut c_void = absent(message, message_len);
    fn mlx_ext_gated_delta(
        spec: *const RawGatedDelta, message: *mut c_char, message_len: usize
    ) -> *mut c_void = absent(message, message_len);
    fn mlx_ext_gated(spec: *const RawGated, message: *mut c_char, message_len: usize) -> *mut c_void
        = absent(message, message_len);
    fn mlx_ext_columns(
        x: *mut c_void, pieces: *const RawPiece, count: c_int, message: *mut c_char, message_len: usize
    ) -> *mut c_void = absent(message, message_len);
}

#[cfg(not(target_os = "linux"))]
fn absent(message: *mut c_char, message_len: usize) -> *mut c_void {
    let text = ABSENT.to_bytes_with_nul();
    if text.len() <= message_len {
        // SAFETY: every caller passes a buffer of `message_len` bytes, and the text is a constant elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), message, text.len()) };
    }
    null_mut()
}
