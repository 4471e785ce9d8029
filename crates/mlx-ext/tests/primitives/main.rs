//! The CPU primitives against MLX's own operations, and what holds of their results bit for bit.
//!
//! The references are plain MLX operations in float64, so that what remains are the primitives' own roundings; each
//! bound is derived from those, and none is fitted. [`instruction_sets`] runs all of it once more on every other
//! instruction set that this CPU has.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod attention;
mod experts;
mod instruction_sets;
mod invariance;
mod lazy;
mod not_numbers;
mod products;
mod recurrent;
mod rowwise;
mod support;
