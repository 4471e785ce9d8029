//! Bytes that claim to be a safetensors file.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| artifact_store::fuzzing::read_safetensors(data));
