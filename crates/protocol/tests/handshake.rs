//! The opening talk with peers that are older, newer, or something else.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

use protocol::{
    handshake::{
        HEADER_LEN, HandshakeError, Hello, HelloAck, MAX_BODY, ProtocolVersion, VERSION, body_len, read_ack,
        read_hello, write_ack, write_hello,
    },
    ids::Incarnation,
};

fn hello(version: ProtocolVersion) -> Hello {
    Hello { version, incarnation: Incarnation(1), segment: "/run/segment".into(), ring_bytes: 4096, pid: 1 }
}

fn newer_major() -> ProtocolVersion {
    ProtocolVersion { major: VERSION.major + 1, minor: 4 }
}

#[test]
fn both_messages_pass_and_nothing_after_them_is_read() {
    let mut socket = Vec::new();
    write_hello(&mut socket, &hello(VERSION)).unwrap();
    let ack = HelloAck::Accepted { version: VERSION, pid: 7 };
    write_ack(&mut socket, &ack).unwrap();
    socket.push(b'!');
    let mut unread = &*socket;
    assert_eq!(read_hello(&mut unread).unwrap(), hello(VERSION));
    assert_eq!(read_ack(&mut unread).unwrap(), ack);
    assert_eq!(unread, b"!");
}

#[test]
fn reading_by_parts_gives_the_same() {
    let bytes = hello(VERSION).to_bytes().unwrap();
    let (header, body) = bytes.split_first_chunk::<HEADER_LEN>().unwrap();
    assert_eq!(body_len(header).unwrap(), body.len());
    assert_eq!(Hello::from_parts(header, body).unwrap(), hello(VERSION));
    assert!(matches!(Hello::from_parts(header, &body[1..]), Err(HandshakeError::Length { .. })));
}

#[test]
fn the_lower_minor_is_spoken() {
    let older = ProtocolVersion { major: 3, minor: 2 };
    let newer = ProtocolVersion { major: 3, minor: 5 };
    assert_eq!(older.negotiate(newer).unwrap(), older);
    assert_eq!(newer.negotiate(older).unwrap(), older);
    let other = ProtocolVersion { major: 4, minor: 2 };
    assert!(matches!(older.negotiate(other), Err(HandshakeError::Version { .. })));
}

#[test]
fn another_minor_is_understood() {
    let newer = ProtocolVersion { minor: VERSION.minor + 1, ..VERSION };
    let bytes = hello(newer).to_bytes().unwrap();
    let hello = read_hello(&mut &*bytes).unwrap();
    assert_eq!(VERSION.negotiate(hello.version).unwrap(), VERSION);
}

#[test]
fn another_major_is_refused_whatever_its_body_is() {
    let mut bytes = hello(newer_major()).to_bytes().unwrap();
    bytes[HEADER_LEN..].fill(0xff);
    let error = read_hello(&mut &*bytes).unwrap_err();
    let text = format!(
        "this side speaks protocol {VERSION} and the peer 2.4; install gateway and worker from the same release"
    );
    assert_eq!(error.to_string(), text);

    // The worker tells the gateway of the same version…
    let bytes = HelloAck::refused(&error).to_bytes().unwrap();
    let refusal = read_ack(&mut &*bytes).unwrap().accepted().unwrap_err();
    assert_eq!(refusal.to_string(), format!("the worker (protocol {VERSION}) refused: {text}"));

    // …and one of another sees the version in the header.
    let ack = HelloAck::Refused { version: newer_major(), reason: text.clone() };
    let bytes = ack.to_bytes().unwrap();
    assert_eq!(read_ack(&mut &*bytes).unwrap_err().to_string(), text);
}

#[test]
fn any_reason_fits_into_a_refusal() {
    let ack = HelloAck::refused("é".repeat(MAX_BODY));
    let bytes = ack.to_bytes().unwrap();
    assert_eq!(read_ack(&mut &*bytes).unwrap(), ack);
}

#[test]
fn a_path_that_is_too_long_is_not_sent() {
    let hello = Hello { segment: "/".repeat(MAX_BODY), ..hello(VERSION) };
    assert!(matches!(hello.to_bytes(), Err(HandshakeError::Length { .. })));
}

#[test]
fn strangers_and_torn_messages_are_told_apart() {
    assert!(matches!(read_hello(&mut &b"GET / HTTP/1.1\r\n"[..]), Err(HandshakeError::Magic { .. })));

    let whole = hello(VERSION).to_bytes().unwrap();
    for len in 0..whole.len() {
        let torn = read_hello(&mut &whole[..len]);
        assert!(matches!(torn, Err(HandshakeError::Io(_))), "{len}: {torn:?}");
    }

    let mut long = whole.clone();
    long[12..16].copy_from_slice(&(MAX_BODY as u32 + 1).to_le_bytes());
    assert!(matches!(read_hello(&mut &*long), Err(HandshakeError::Length { .. })));

    let mut two_faced = whole.clone();
    two_faced[10] += 1;
    assert!(matches!(read_hello(&mut &*two_faced), Err(HandshakeError::Contradiction { .. })));

    assert!(matches!(read_ack(&mut &*whole), Err(HandshakeError::Body(_))));
}
