//! What MLX would do to evaluate an array.
// Lifted here alone: the graph is printed to a stream of C.
#![allow(unsafe_code)]

use std::{ffi::CStr, ptr::null_mut};

use mlx_rs::{Array, error::Exception};

/// Names of the operations that evaluating `array` would take, in their order; none for one that is evaluated. For tests
/// and measurements: it prints the graph and reads what was printed.
///
/// # Errors
/// MLX can't print it, or there is no memory.
pub fn operations(array: &Array) -> Result<Vec<String>, Exception> {
    let text = printed(array)?;
    // Two lines for inputs and outputs come first.
    let name = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    Ok(text.lines().skip(2).filter(|line| line.contains(" -> ")).map(name).collect())
}

fn printed(array: &Array) -> Result<String, Exception> {
    let (mut text, mut len) = (null_mut(), 0);
    // SAFETY: both places outlive the stream, which is closed below.
    let stream = unsafe { libc::open_memstream(&raw mut text, &raw mut len) };
    if stream.is_null() {
        return Err(Exception::custom("no memory for a graph's text"));
    }
    // SAFETY: the array is alive, and the vector and the namer are this function's own; the stream is open, and of the
    // type that the C library of both crates has.
    let (failed, unwritten) = unsafe {
        let outputs = mlx_sys::mlx_vector_array_new_value(array.as_ptr());
        let namer = mlx_sys::mlx_node_namer_new();
        let failed = mlx_sys::mlx_print_graph(stream.cast(), namer, outputs);
        mlx_sys::mlx_node_namer_free(namer);
        mlx_sys::mlx_vector_array_free(outputs);
        (failed, libc::fclose(stream))
    };
    if text.is_null() {
        return Err(Exception::custom("no memory for a graph's text"));
    }
    // SAFETY: closing the stream has ended the text with a zero; it is this function's to free.
    let printed = unsafe {
        let printed = CStr::from_ptr(text).to_string_lossy().into_owned();
        libc::free(text.cast());
        printed
    };
    if failed != 0 || unwritten != 0 {
        return Err(Exception::custom("MLX can't print a graph"));
    }
    Ok(printed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use mlx_rs::transforms::eval;

    use super::*;

    #[test]
    fn a_graph_has_its_operations_until_it_is_evaluated() {
        crate::init().unwrap();
        let one = Array::from_slice(&[1.0_f32, 2.0], &[2]);
        let sum = one.add(&one).unwrap().square().unwrap();
        assert_eq!(operations(&one).unwrap(), Vec::<String>::new());
        assert_eq!(operations(&sum).unwrap(), ["Add", "Square"]);
        eval([&sum]).unwrap();
        assert_eq!(operations(&sum).unwrap(), Vec::<String>::new());
    }
}
