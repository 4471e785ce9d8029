#![allow(clippy::unwrap_used)]

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::shm::{HeapRing, RingMemory, heap_ring};

const CAPACITY: usize = 256;
const THIS: Incarnation = Incarnation(0x0102_0304_0506_0708);

fn link(capacity: usize) -> (FrameSender, FrameReceiver) {
    let (producer, consumer) = heap_ring(capacity);
    (FrameSender::new(producer, THIS), FrameReceiver::new(consumer, THIS))
}

/// A receiver of what a peer of any kind writes.
fn hostile() -> (Producer, FrameReceiver) {
    let (producer, consumer) = heap_ring(CAPACITY);
    (producer, FrameReceiver::new(consumer, THIS))
}

fn header(part: &[u8]) -> Header {
    Header { len: part.len() as u32, kind: 2, flags: 0, reserved: 0, incarnation: THIS, offset: 0 }
}

fn push(producer: &mut Producer, header: &Header, part: &[u8]) {
    producer.push(&[&header.to_bytes(part), part]).unwrap();
}

fn received(receiver: &mut FrameReceiver) -> Option<(FrameKind, Vec<u8>)> {
    receiver.try_recv().unwrap().map(|frame| (frame.kind, frame.body.to_vec()))
}

fn corrupt(receiver: &mut FrameReceiver) -> &'static str {
    match receiver.try_recv() {
        Err(FrameError::Corrupt { what }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn ends_may_move_to_other_threads() {
    fn is_send<T: Send>() {}
    is_send::<FrameSender>();
    is_send::<FrameReceiver>();
}

#[test]
fn golden_bytes() {
    let (producer, mut consumer) = heap_ring(CAPACITY);
    let mut sender = FrameSender::new(producer, THIS);
    let _ = sender.send(FrameKind::Report, b"hello").unwrap();
    let mut bytes = vec![0xaa; consumer.available().unwrap()];
    consumer.copy_out(0, &mut bytes);
    #[rustfmt::skip]
    let expected = [
        5, 0, 0, 0,  2,  0,  0, 0,
        8, 7, 6, 5, 4, 3, 2, 1,
        0, 0, 0, 0,  CRC[0], CRC[1], CRC[2], CRC[3],
        b'h', b'e', b'l', b'l', b'o', 0, 0, 0,
    ];
    assert_eq!(bytes, expected);
}

/// CRC-32 (IEEE) of the 20 bytes before it and of the padded part, as zlib computes it.
const CRC: [u8; 4] = [0xdd, 0xee, 0x9b, 0x10];

#[test]
fn large_bodies_come_in_parts_and_both_sides_are_woken() {
    let (mut sender, mut receiver) = link(CAPACITY);
    let body: Vec<u8> = (0..=255).cycle().take(1000).collect();
    assert_eq!(receiver.arm(), Armed::Sleep);
    assert_eq!(sender.send(FrameKind::Batch, &body), Ok(Sent::Full { ring_bell: true }));
    for _ in 0..3 {
        assert_eq!(received(&mut receiver), None);
        assert!(receiver.partial.is_some());
        assert!(receiver.take_owed_bell());
        assert!(!receiver.take_owed_bell());
        assert_eq!(sender.send(FrameKind::Batch, &body), Ok(Sent::Full { ring_bell: false }));
    }
    assert_eq!(received(&mut receiver), None);
    assert_eq!(receiver.arm(), Armed::Sleep);
    assert_eq!(sender.send(FrameKind::Batch, &body), Ok(Sent::Done { ring_bell: true }));
    assert_eq!(received(&mut receiver), Some((FrameKind::Batch, body)));
    assert!(receiver.partial.is_none());
}

#[test]
fn a_full_ring_is_not_fed_with_crumbs() {
    let (mut sender, mut receiver) = link(CAPACITY);
    // Leaves 64 - 8 bytes free: enough for a header, but for less than a quarter of the ring.
    for _ in 0..4 {
        assert_eq!(sender.send(FrameKind::Batch, &[7; 26]), Ok(Sent::Done { ring_bell: false }));
    }
    let full = Ok(Sent::Full { ring_bell: false });
    assert_eq!(sender.send(FrameKind::Batch, &[8; 100]), full);
    assert_eq!(sender.send(FrameKind::Batch, &[8; 100]), full);
    for _ in 0..4 {
        assert_eq!(received(&mut receiver), Some((FrameKind::Batch, vec![7; 26])));
    }
    assert_eq!(sender.send(FrameKind::Batch, &[8; 100]), Ok(Sent::Done { ring_bell: false }));
    assert_eq!(received(&mut receiver), Some((FrameKind::Batch, vec![8; 100])));
}

#[test]
fn limits_of_the_sender() {
    let (mut sender, _receiver) = link(CAPACITY);
    let len = MAX_BODY + 1;
    assert_eq!(
        sender.send(FrameKind::Batch, &vec![0; len]),
        Err(FrameError::TooLarge { len, max: MAX_BODY })
    );
    assert_eq!(sender.send(FrameKind::Batch, &[0; 500]), Ok(Sent::Full { ring_bell: false }));
    let unfinished = Err(FrameError::Unfinished { len: 500 });
    assert_eq!(sender.send(FrameKind::Batch, &[0; 501]), unfinished);
    assert_eq!(sender.send(FrameKind::Report, &[0; 500]), unfinished);
    assert_eq!(sender.send(FrameKind::Batch, &[0; 500]), Ok(Sent::Full { ring_bell: false }));
}

#[test]
fn the_largest_body_passes() {
    let (mut sender, mut receiver) = link(1 << 20);
    let body = vec![0x5a; MAX_BODY];
    while sender.send(FrameKind::Report, &body).unwrap() == (Sent::Full { ring_bell: false }) {
        assert_eq!(received(&mut receiver), None);
    }
    let frame = received(&mut receiver).unwrap();
    assert!(frame == (FrameKind::Report, body), "not compared with assert_eq: it would print 128 MiB");
}

#[test]
fn a_side_may_have_a_lower_limit() {
    let (producer, consumer) = heap_ring(CAPACITY);
    let mut limited = FrameSender::new(producer, THIS).with_max_body(600);
    let too_large = Err(FrameError::TooLarge { len: 601, max: 600 });
    assert_eq!(limited.send(FrameKind::Report, &[0; 601]), too_large);
    let mut receiver = FrameReceiver::new(consumer, THIS).with_max_body(600);
    while limited.send(FrameKind::Report, &[7; 600]) != Ok(Sent::Done { ring_bell: false }) {
        assert_eq!(received(&mut receiver), None);
    }
    assert_eq!(received(&mut receiver), Some((FrameKind::Report, vec![7; 600])));

    let (mut sender, receiver) = link(CAPACITY);
    let mut receiver = receiver.with_max_body(599);
    let refused = loop {
        let _ = sender.send(FrameKind::Report, &[7; 600]).unwrap();
        if let Err(error) = receiver.try_recv() {
            break error;
        }
    };
    assert_eq!(refused, FrameError::Corrupt { what: "its body is over the limit" });
    assert!(receiver.buffer.len() <= 599 + CAPACITY, "no more is kept than the limit and a ring");
}

#[test]
fn a_body_over_the_limit_is_refused() {
    let (mut producer, consumer) = heap_ring(1 << 20);
    let mut receiver = FrameReceiver::new(consumer, THIS);
    let part = vec![0; 1 << 19];
    for index in 0..MAX_BODY / part.len() {
        let offset = (index * part.len()) as u32;
        push(&mut producer, &Header { flags: MORE, offset, ..header(&part) }, &part);
        assert_eq!(received(&mut receiver), None);
    }
    push(&mut producer, &Header { offset: MAX_BODY as u32, ..header(b"!") }, b"!");
    assert_eq!(corrupt(&mut receiver), "its body is over the limit");
}

#[test]
fn frames_of_another_incarnation_are_skipped_between_parts_too() {
    let (mut producer, mut receiver) = hostile();
    let stale = Header { incarnation: Incarnation(THIS.0 - 1), kind: 9, ..header(b"stale") };
    push(&mut producer, &stale, b"stale");
    push(&mut producer, &Header { flags: MORE, ..header(b"one ") }, b"one ");
    push(&mut producer, &stale, b"stale");
    push(&mut producer, &Header { offset: 4, ..header(b"body") }, b"body");
    push(&mut producer, &stale, b"stale");
    assert_eq!(received(&mut receiver), Some((FrameKind::Report, b"one body".to_vec())));
    assert_eq!(received(&mut receiver), None);
    assert_eq!(receiver.arm(), Armed::Sleep);
}

#[test]
fn impossible_headers_are_refused() {
    let part = b"part";
    let more = || Header { flags: MORE, ..header(part) };
    let cases: [(&[Header], &str); 8] = [
        (&[Header { kind: 0, ..header(part) }], "its kind is unknown"),
        (&[Header { kind: 3, ..header(part) }], "its kind is unknown"),
        (&[Header { flags: 2, ..header(part) }], "its flags are unknown"),
        (&[Header { reserved: 1, ..header(part) }], "its reserved bytes are used"),
        (&[Header { offset: 4, ..header(part) }], "it does not continue what came before"),
        (&[more(), more()], "it does not continue what came before"),
        (&[more(), Header { kind: 1, offset: 4, ..header(part) }], "it does not continue what came before"),
        (&[Header { len: u32::MAX, ..header(part) }], "it is longer than what was written"),
    ];
    for (headers, what) in cases {
        let (mut producer, mut receiver) = hostile();
        for header in headers {
            push(&mut producer, header, part);
        }
        assert_eq!(corrupt(&mut receiver), what);
    }

    let (mut producer, mut receiver) = hostile();
    push(&mut producer, &Header { flags: MORE, ..header(b"") }, b"");
    assert_eq!(corrupt(&mut receiver), "it is empty but not the last part");

    let (mut producer, mut receiver) = hostile();
    producer.push(&[&[0; 16]]).unwrap();
    assert_eq!(corrupt(&mut receiver), "its header is cut off");
}

#[test]
fn an_impossible_position_is_an_error_and_no_reason_to_sleep() {
    let memory = Arc::new(HeapRing::new(CAPACITY));
    let mut receiver = FrameReceiver::new(Consumer::new(memory.clone()), THIS);
    let found = CAPACITY as u64 + 8;
    memory.control().head.0.store(found, Ordering::Relaxed);
    assert_eq!(receiver.arm(), Armed::Ready);
    let error = RingError::Corrupt { index: "head", last: 0, found, own: 0 };
    assert_eq!(receiver.try_recv(), Err(error.into()));
}

#[derive(Clone, Debug)]
enum Step {
    Send(FrameKind, Vec<u8>),
    Receive,
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![Just(FrameKind::Batch), Just(FrameKind::Report)];
    let body = prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), 0..3 * CAPACITY)];
    prop_oneof![(kind, body).prop_map(|(kind, body)| Step::Send(kind, body)), Just(Step::Receive)]
}

proptest! {
    #[test]
    fn it_is_a_queue(steps in vec(step(), 0..60)) {
        let (mut sender, mut receiver) = link(CAPACITY);
        let mut to_send = VecDeque::new();
        let mut in_ring = VecDeque::new();
        for step in steps {
            match step {
                Step::Send(kind, body) => to_send.push_back((kind, body)),
                Step::Receive => {
                    if let Some(frame) = received(&mut receiver) {
                        prop_assert_eq!(Some(frame), in_ring.pop_front());
                    } else {
                        prop_assert!(in_ring.is_empty());
                    }
                }
            }
            while let Some((kind, body)) = to_send.front() {
                match sender.send(*kind, body).unwrap() {
                    Sent::Done { .. } => in_ring.extend(to_send.pop_front()),
                    Sent::Full { .. } => break,
                }
            }
        }
        while let Some((kind, body)) = to_send.pop_front() {
            while let Sent::Full { .. } = sender.send(kind, &body).unwrap() {
                if let Some(frame) = received(&mut receiver) {
                    prop_assert_eq!(Some(frame), in_ring.pop_front());
                }
            }
            in_ring.push_back((kind, body));
        }
        for expected in in_ring {
            prop_assert_eq!(received(&mut receiver), Some(expected));
        }
        prop_assert_eq!(received(&mut receiver), None);
    }

    #[test]
    fn a_changed_byte_is_found(body in vec(any::<u8>(), 0..CAPACITY - HEADER_LEN), at in any::<prop::sample::Index>(),
                               change in 1..=255u8) {
        let memory = Arc::new(HeapRing::new(CAPACITY));
        let mut sender = FrameSender::new(Producer::new(memory.clone()), THIS);
        let _ = sender.send(FrameKind::Batch, &body).unwrap();
        let at = at.index(HEADER_LEN + body.len().next_multiple_of(8));
        let word = &memory.words()[at / 8];
        let mut bytes = word.load();
        bytes[at % 8] ^= change;
        word.store(bytes);
        let mut receiver = FrameReceiver::new(Consumer::new(memory), THIS);
        let result = receiver.try_recv();
        let found = matches!(result, Err(FrameError::Corrupt { .. }));
        prop_assert!(found, "{result:?}");
    }

    #[test]
    fn a_cut_frame_is_found(body in vec(any::<u8>(), 0..CAPACITY - HEADER_LEN), cut in any::<prop::sample::Index>()) {
        let memory = Arc::new(HeapRing::new(CAPACITY));
        let mut sender = FrameSender::new(Producer::new(memory.clone()), THIS);
        let _ = sender.send(FrameKind::Batch, &body).unwrap();
        let words = (HEADER_LEN + body.len()).div_ceil(8);
        let head = 8 * (1 + cut.index(words - 1)) as u64;
        memory.control().head.0.store(head, Ordering::Relaxed);
        let mut receiver = FrameReceiver::new(Consumer::new(memory), THIS);
        let result = receiver.try_recv();
        let found = matches!(result, Err(FrameError::Corrupt { .. }));
        prop_assert!(found, "{result:?}");
    }
}
