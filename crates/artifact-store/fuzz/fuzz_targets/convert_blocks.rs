//! Bytes that claim to be quantized blocks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| artifact_store::fuzzing::convert_blocks(data));
