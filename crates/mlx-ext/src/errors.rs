//! MLX's own words about a failed call of its C interface that `mlx-rs` has no function for.

#![allow(unsafe_code)]

use std::{
    cell::RefCell,
    ffi::{CStr, c_char, c_void},
    ptr,
    sync::Once,
};

use mlx_rs::error::Exception;

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

unsafe extern "C" {
    /// The handler that `mlx-rs` installs.
    fn default_mlx_error_handler(message: *const c_char, data: *mut c_void);
}

/// From now on each thread's last message is kept for [`last`], beside what `mlx-rs` does with it. Call it after
/// [`init`](crate::init).
pub(crate) fn keep() {
    static ONCE: Once = Once::new();
    // SAFETY: a handler without data; it may be called from any thread.
    ONCE.call_once(|| unsafe { mlx_sys::mlx_set_error_handler(Some(handle), ptr::null_mut(), None) });
}

/// Why the calling thread's last call failed.
pub(crate) fn last() -> Exception {
    let message = LAST.with(RefCell::take);
    Exception::custom(message.unwrap_or_else(|| "MLX gives no reason".to_owned()))
}

extern "C" fn handle(message: *const c_char, data: *mut c_void) {
    // SAFETY: MLX passes text that ends in a zero and lives during the call.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    LAST.with(|last| last.replace(Some(text)));
    // SAFETY: the arguments are passed on as they came.
    unsafe { default_mlx_error_handler(message, data) }
}
