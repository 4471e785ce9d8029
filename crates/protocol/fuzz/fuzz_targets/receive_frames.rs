//! A peer that writes anything into a ring.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| protocol::fuzzing::receive_frames(data));
