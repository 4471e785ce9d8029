//! An error says what failed; why it did is its source. So a chain of them says everything once.
#![allow(clippy::unwrap_used)]

use std::{error::Error, io};

use protocol::{
    codec::{self, CodecError},
    frame::FrameError,
    handshake::HandshakeError,
    message::Report,
    shm::Segment,
};

use crate::worker::{JoinError, LaunchError, ListError, link::LinkEnd};

/// The messages from the outside in, none of which is in the one before it.
#[track_caller]
fn chain(error: &(dyn Error + 'static)) -> Vec<String> {
    let (mut all, mut source) = (vec![error.to_string()], error.source());
    while let Some(error) = source {
        all.push(error.to_string());
        source = error.source();
    }
    for pair in all.windows(2) {
        assert!(!pair[0].contains(&pair[1]), "{all:?}");
    }
    all
}

fn broken() -> CodecError {
    codec::decode::<Report>(b"\xff").unwrap_err()
}

fn io_error() -> io::Error {
    io::Error::other("the reason")
}

#[test]
fn what_failed_is_said_once_and_why_it_did_by_its_source() {
    let no_folder = Segment::create("/nonexistent/segment", 4096).err().unwrap();
    let errors: [(Box<dyn Error>, usize); 14] = [
        (Box::new(LinkEnd::Closed), 1),
        (Box::new(LinkEnd::Socket(io_error())), 2),
        (Box::new(LinkEnd::Frame(FrameError::Corrupt { what: "it is short" })), 2),
        (Box::new(LinkEnd::Codec(broken())), 3),
        (Box::new(JoinError::Listen { path: "/x.sock".into(), source: io_error() }), 2),
        (Box::new(JoinError::Segment(no_folder)), 2),
        (Box::new(JoinError::Handshake(HandshakeError::Io(io_error()))), 2),
        (Box::new(JoinError::Handshake(HandshakeError::Body(broken()))), 3),
        (Box::new(LaunchError::OwnPath(io_error())), 2),
        (Box::new(LaunchError::NoBinary("/no/worker".into())), 1),
        (Box::new(ListError::Start(io_error())), 2),
        (Box::new(ListError::Read(io_error())), 2),
        (Box::new(ListError::TooLong), 1),
        (Box::new(ListError::TimedOut), 1),
    ];
    for (error, links) in errors {
        let chain = chain(&*error);
        assert_eq!(chain.len(), links, "{chain:?}");
    }
}
