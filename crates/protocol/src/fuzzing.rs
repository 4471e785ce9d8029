//! What the fuzz targets in `fuzz/` do with their input; the unit tests below do it with less of it.

use std::sync::{Arc, atomic::Ordering};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec,
    frame::{FrameKind, FrameReceiver, FrameSender},
    handshake::{HEADER_LEN, HelloAck, read_hello},
    ids::Incarnation,
    message::{Batch, Report},
    shm::{Consumer, HeapRing, Producer, RingMemory},
};

const CAPACITY: usize = 256;

/// A peer that writes anything into a ring: two bytes of `data` become its `head`, the others the ring's data.
pub fn receive_frames(data: &[u8]) {
    let Some((head, data)) = data.split_first_chunk::<2>() else { return };
    let memory = Arc::new(HeapRing::new(CAPACITY));
    for (word, bytes) in memory.words().iter().zip(data.chunks_exact(8)) {
        word.store(bytes.try_into().unwrap_or_default());
    }
    let head = u64::from(u16::from_le_bytes(*head));
    memory.control().head.0.store(head, Ordering::Relaxed);

    let mut receiver = FrameReceiver::new(Consumer::new(memory), Incarnation(0));
    let mut received = 0;
    while let Ok(Some(frame)) = receiver.try_recv() {
        received += frame.body.len();
    }
    assert!(received <= CAPACITY, "more than was ever in the ring");
    let _ = receiver.arm();
}

/// A peer that sets `tail` to anything, four times, while bodies are sent to it.
pub fn send_frames(data: &[u8]) {
    let memory = Arc::new(HeapRing::new(CAPACITY));
    let mut sender = FrameSender::new(Producer::new(memory.clone()), Incarnation(0));
    let (tails, _) = data.as_chunks::<2>();
    for tail in tails.iter().take(4) {
        let tail = u64::from(u16::from_le_bytes(*tail));
        memory.control().tail.0.store(tail, Ordering::Relaxed);
        if sender.send(FrameKind::Batch, &[1; 2 * CAPACITY]).is_err() {
            return;
        }
        let head = memory.control().head.0.load(Ordering::Relaxed);
        assert!(tail <= head && head - tail <= CAPACITY as u64, "a bad tail was believed");
    }
}

/// Bytes that claim to be an encoded [`Batch`] or [`Report`].
pub fn decode_messages(data: &[u8]) {
    decode_one::<Batch>(data);
    decode_one::<Report>(data);
}

/// What was decoded must encode to bytes that mean the same; not to the same bytes, as a number may be written longer
/// than it needs to be.
fn decode_one<T: Serialize + DeserializeOwned>(data: &[u8]) {
    let Ok(value) = codec::decode::<T>(data) else { return };
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    let again = codec::encode(&value, &mut once).and_then(|()| codec::decode::<T>(&once));
    let again = again.and_then(|value| codec::encode(&value, &mut twice));
    assert!(again.is_ok() && once == twice, "{again:?}: {once:?} became {twice:?}");
}

/// A peer that opens with anything.
pub fn shake_hands(data: &[u8]) {
    if let Ok(hello) = read_hello(&mut &*data) {
        let bytes = hello.to_bytes().unwrap_or_default();
        assert!(read_hello(&mut &*bytes).is_ok_and(|again| again == hello));
    }
    if let Some(ack) = read_ack(data) {
        let bytes = ack.to_bytes().unwrap_or_default();
        assert!(read_ack(&bytes).is_some_and(|again| again == ack));
    }
}

fn read_ack(data: &[u8]) -> Option<HelloAck> {
    let (header, body) = data.split_first_chunk::<HEADER_LEN>()?;
    HelloAck::from_parts(header, body).ok()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        // Small numbers too: as lengths and variants, they get further than random ones.
        let byte = prop_oneof![any::<u8>(), 0..4u8];
        vec(byte, 0..CAPACITY)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn anything_may_be_received(head in any::<u8>(), data in bytes()) {
            receive_frames(&[&[head & 0xf8, 0], &*data].concat());
            receive_frames(&data);
        }

        #[test]
        fn anything_may_be_the_tail(data in bytes(), rounds in vec((0..32u8, 0..4u8), 4)) {
            send_frames(&data);
            send_frames(&rounds.into_iter().flat_map(|(low, high)| [low * 8, high]).collect::<Vec<_>>());
        }

        #[test]
        fn anything_may_be_decoded(data in bytes()) {
            decode_messages(&data);
        }

        #[test]
        fn anything_may_open_the_talk(
            data in bytes(),
            body in bytes(),
            len in any::<u32>(),
        ) {
            shake_hands(&data);
            let crate::handshake::ProtocolVersion { major, minor } = crate::handshake::VERSION;
            // The version is in the body, too: without it, most bodies would be refused for that alone.
            let body = [&[major as u8, minor as u8], &*body].concat();
            for len in [len, body.len() as u32] {
                let header = [
                    &crate::handshake::MAGIC[..],
                    &major.to_le_bytes(),
                    &minor.to_le_bytes(),
                    &len.to_le_bytes(),
                ];
                shake_hands(&[&header.concat(), &*body].concat());
            }
        }
    }
}
