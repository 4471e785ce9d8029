//! A reader that sets its position to anything.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| protocol::fuzzing::send_frames(data));
