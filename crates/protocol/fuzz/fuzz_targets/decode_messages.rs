//! Bytes that claim to be messages.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| protocol::fuzzing::decode_messages(data));
