//! Sizes and bytes that claim to be a matrix as GPTQ, AWQ or compressed-tensors pack them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| artifact_store::fuzzing::convert_packed(data));
