#![allow(clippy::unwrap_used)]

use protocol::{
    handshake::HelloAck,
    message::{FailureKind, max_report_bytes},
    shm::{Segment, Side},
};

use super::*;
use crate::testing::gateway::{self, Gateway};

#[test]
fn a_model_that_can_not_be_loaded_is_reported_over_the_link() {
    let (listener, path, dir) = gateway::listen();
    let store = dir.path().join("store");
    let cli = Serve { socket: path, model: "absent".into(), store: Some(store) };
    let running = thread::spawn(move || run(&cli, Instant::now()));
    let segment = Segment::create(dir.path().join("segment"), 1 << 16).unwrap();
    let hello = gateway::hello(segment.path(), WorkerOptions::default());
    let (socket, ack) = gateway::greet(&listener, &hello);
    assert!(matches!(ack, HelloAck::Accepted { .. }), "{ack:?}");
    let max_report = max_report_bytes(segment.ring_bytes());
    let (to_worker, from_worker) = segment.into_ends(Side::Gateway);
    let report = Gateway::new(socket, to_worker, from_worker, max_report).report();
    let Report::LoadFailed(failure) = report else { panic!("{report:?}") };
    assert_eq!(failure.kind, FailureKind::UnknownModel);
    assert!(failure.message.contains("absent"), "{}", failure.message);
    let error = running.join().unwrap().unwrap_err();
    assert_eq!(format!("{error:#}"), failure.message);
}
