#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const CAPACITY: usize = 64;

fn ring() -> (Arc<HeapRing>, Producer, Consumer) {
    let memory = Arc::new(HeapRing::new(CAPACITY));
    (memory.clone(), Producer::new(memory.clone()), Consumer::new(memory))
}

fn set_head(memory: &HeapRing, head: u64) {
    memory.control.head.0.store(head, Ordering::Relaxed);
}

fn set_tail(memory: &HeapRing, tail: u64) {
    memory.control.tail.0.store(tail, Ordering::Relaxed);
}

fn read(consumer: &mut Consumer, len: usize) -> Vec<u8> {
    let mut out = vec![0xaa; len];
    consumer.copy_out(0, &mut out);
    consumer.release(len);
    out
}

#[test]
fn pieces_are_padded_and_wrap_around() {
    let (_, mut producer, mut consumer) = ring();
    producer.push(&[&[1; 40]]).unwrap();
    assert_eq!(consumer.available(), Ok(40));
    assert_eq!(read(&mut consumer, 40), [1; 40]);

    producer.push(&[&[2; 8], &[3; 37]]).unwrap();
    assert_eq!(consumer.available(), Ok(48));
    let expected = [&[2; 8][..], &[3; 37], &[0; 3]].concat();
    assert_eq!(read(&mut consumer, 48), expected);
    assert_eq!(consumer.available(), Ok(0));
}

#[test]
fn what_does_not_fit_is_not_written() {
    let (memory, mut producer, mut consumer) = ring();
    producer.push(&[&[1; 40]]).unwrap();
    assert_eq!(producer.push(&[&[2; 17], &[2; 1]]), Err(RingError::NoRoom { wanted: 32, free: 24 }));
    assert_eq!(memory.control.head.0.load(Ordering::Relaxed), 40);
    producer.push(&[&[2; 17]]).unwrap();
    assert_eq!(producer.free(1), Ok(0));
    assert_eq!(consumer.available(), Ok(40 + 24));
}

#[test]
fn a_sleeping_reader_is_rung_for_once() {
    let (_, mut producer, mut consumer) = ring();
    assert_eq!(producer.push(&[&[1]]), Ok(false));
    assert_eq!(consumer.arm(), Ok(Armed::Ready));
    assert_eq!(producer.push(&[&[1]]), Ok(false));
    consumer.release(8);
    assert_eq!(consumer.available(), Ok(8));
    consumer.release(8);
    assert_eq!(consumer.arm(), Ok(Armed::Sleep));
    assert_eq!(producer.push(&[&[1]]), Ok(true));
    assert_eq!(producer.push(&[&[1]]), Ok(false));
}

#[test]
fn a_waiting_writer_is_rung_for_once() {
    let (_, mut producer, mut consumer) = ring();
    producer.push(&[&[1; CAPACITY]]).unwrap();
    consumer.available().unwrap();
    assert!(!consumer.release(8));
    assert_eq!(producer.arm(8), Ok(true));
    assert!(!consumer.release(8));
    assert_eq!(producer.arm(24), Ok(false));
    assert!(consumer.release(8));
    assert!(!consumer.release(8));
}

#[test]
#[should_panic(expected = "only what is available")]
fn reading_over_the_end_is_a_bug_of_the_caller() {
    let (_, mut producer, mut consumer) = ring();
    producer.push(&[&[1; 8]]).unwrap();
    consumer.available().unwrap();
    consumer.copy_out(8, &mut [0; 8]);
}

#[test]
fn a_tail_that_goes_back_is_corrupt() {
    let (memory, mut producer, _) = ring();
    producer.push(&[&[1; 48]]).unwrap();
    set_tail(&memory, 32);
    assert_eq!(producer.free(40), Ok(48));
    set_tail(&memory, 24);
    let error = RingError::Corrupt { index: "tail", last: 32, found: 24, own: 48 };
    assert_eq!(producer.free(CAPACITY), Err(error));
    assert_eq!(producer.arm(CAPACITY), Err(error));
    assert_eq!(producer.push(&[&[1; CAPACITY]]), Err(error));
}

#[test]
fn a_head_that_goes_back_is_corrupt() {
    let (memory, mut producer, mut consumer) = ring();
    producer.push(&[&[1; 48]]).unwrap();
    consumer.available().unwrap();
    consumer.release(48);
    set_head(&memory, 40);
    let error = RingError::Corrupt { index: "head", last: 48, found: 40, own: 48 };
    assert_eq!(consumer.available(), Err(error));
    assert_eq!(consumer.arm(), Err(error));
}

/// Any position, near the valid ones half of the time.
fn position() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0..300u64]
}

proptest! {
    #[test]
    fn only_possible_heads_are_believed(moved in 0..20u64, head in position()) {
        let (memory, mut producer, mut consumer) = ring();
        for _ in 0..moved {
            producer.push(&[&[1; 8]]).unwrap();
            consumer.available().unwrap();
            consumer.release(8);
        }
        let own = moved * 8;
        set_head(&memory, head);
        let possible = head % 8 == 0 && head >= own && head - own <= CAPACITY as u64;
        match consumer.available() {
            Ok(available) => prop_assert!(possible && available as u64 == head - own),
            Err(error) => prop_assert!(!possible, "{error}"),
        }
    }

    #[test]
    fn only_possible_tails_are_believed(moved in 0..20u64, written in 1..=8u64, tail in position()) {
        let (memory, mut producer, mut consumer) = ring();
        for _ in 0..moved {
            producer.push(&[&[1; 8]]).unwrap();
            consumer.available().unwrap();
            consumer.release(8);
        }
        for _ in 0..written {
            producer.push(&[&[1; 8]]).unwrap();
        }
        let (last, own) = (producer.tail, producer.head);
        set_tail(&memory, tail);
        let possible = tail % 8 == 0 && (last..=own).contains(&tail);
        match producer.free(CAPACITY) {
            Ok(free) => prop_assert!(possible && free as u64 == CAPACITY as u64 - (own - tail)),
            Err(error) => prop_assert!(!possible, "{error}"),
        }
    }
}
