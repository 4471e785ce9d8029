//! A peer that opens with anything.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| protocol::fuzzing::shake_hands(data));
