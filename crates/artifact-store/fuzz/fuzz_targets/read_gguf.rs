//! Bytes that claim to be a GGUF file.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| artifact_store::fuzzing::read_gguf(data));
