//! Every interleaving of a writer and a reader, as far as the model checker's bound goes: frames arrive whole and in
//! order, no word is accessed by both sides at once, and nobody sleeps for ever.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test -p protocol --test loom --release --target-dir target/loom
//! ```
#![cfg(loom)]
#![allow(clippy::unwrap_used)]

use loom::{
    sync::{Arc, Condvar, Mutex},
    thread,
};
use protocol::{
    frame::{FrameKind, FrameReceiver, FrameSender, Sent},
    ids::Incarnation,
    shm::{Armed, heap_ring},
};

const LIFE: Incarnation = Incarnation(1);

/// Room for one header and one word.
const ONE_FRAME: usize = 32;

/// Stands for the socket in one direction: a bell that was rung stays rung until someone waits for it.
#[derive(Clone)]
struct Bell(Arc<(Mutex<bool>, Condvar)>);

impl Bell {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(false), Condvar::new())))
    }

    fn ring(&self) {
        let (rung, changed) = &*self.0;
        *rung.lock().unwrap() = true;
        changed.notify_one();
    }

    /// The model fails with a deadlock if nobody ever rings.
    fn wait(&self) {
        let (rung, changed) = &*self.0;
        let mut rung = rung.lock().unwrap();
        while !*rung {
            rung = changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Enough to find each ordering or fence of the ring that is weakened or left out; six take many minutes.
    // LOOM_MAX_PREEMPTIONS says otherwise.
    builder.preemption_bound = builder.preemption_bound.or(Some(4));
    builder.check(model);
}

fn send_all(mut sender: FrameSender, bodies: &[&[u8]], to_reader: &Bell, to_writer: &Bell) {
    for body in bodies {
        loop {
            let sent = sender.send(FrameKind::Batch, body).unwrap();
            let (Sent::Done { ring_bell } | Sent::Full { ring_bell }) = sent;
            if ring_bell {
                to_reader.ring();
            }
            if matches!(sent, Sent::Done { .. }) {
                break;
            }
            to_writer.wait();
        }
    }
}

fn receive_all(mut receiver: FrameReceiver, bodies: &[&[u8]], to_reader: &Bell, to_writer: &Bell) {
    for body in bodies {
        loop {
            let received = receiver.try_recv().unwrap().map(|frame| assert_eq!(frame.body, *body));
            if receiver.take_owed_bell() {
                to_writer.ring();
            }
            if received.is_some() {
                break;
            }
            if receiver.arm() == Armed::Sleep {
                to_reader.wait();
            }
        }
    }
}

fn exchange(capacity: usize, bodies: &'static [&'static [u8]]) {
    check(move || {
        let (producer, consumer) = heap_ring(capacity);
        let (to_reader, to_writer) = (Bell::new(), Bell::new());
        let writer = {
            let (to_reader, to_writer) = (to_reader.clone(), to_writer.clone());
            thread::spawn(move || send_all(FrameSender::new(producer, LIFE), bodies, &to_reader, &to_writer))
        };
        receive_all(FrameReceiver::new(consumer, LIFE), bodies, &to_reader, &to_writer);
        writer.join().unwrap();
    });
}

#[test]
fn a_sleeping_reader_is_woken() {
    exchange(4 * ONE_FRAME, &[b"one", b"two"]);
}

#[test]
fn a_waiting_writer_is_woken() {
    exchange(ONE_FRAME, &[b"one", b"two", b"three"]);
}

#[test]
fn a_body_larger_than_the_ring_passes_in_parts() {
    exchange(2 * ONE_FRAME, &[&[7; 56]]);
}

#[test]
fn frames_wrap_around_the_end() {
    // Two frames of 40 bytes each do not fit together, and the second is split by the end.
    exchange(64, &[&[1; 16], &[2; 16]]);
}
