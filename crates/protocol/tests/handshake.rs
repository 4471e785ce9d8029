//! The opening talk with peers of this version, of another, or of another kind.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

use protocol::{
    handshake::{
        HEADER_LEN, HandshakeError, Hello, HelloAck, MAX_BODY, ProtocolVersion, VERSION, body_len,
        read_hello, write_ack,
    },
    ids::Incarnation,
    options::WorkerOptions,
};

fn hello(version: ProtocolVersion) -> Hello {
    Hello {
        version,
        incarnation: Incarnation(1),
        segment: "/run/segment".into(),
        ring_bytes: 4096,
        pid: 1,
        options: WorkerOptions::default(),
    }
}

/// As the gateway reads it: header, then body.
fn read_ack(bytes: &[u8]) -> Result<HelloAck, HandshakeError> {
    let (header, body) = bytes.split_first_chunk::<HEADER_LEN>().unwrap();
    HelloAck::from_parts(header, &body[..body_len(header)?])
}

fn others() -> [ProtocolVersion; 4] {
    let ProtocolVersion { major, minor } = VERSION;
    [(major + 1, minor), (major - 1, minor), (major, minor + 1), (1, 1)]
        .map(|(major, minor)| ProtocolVersion { major, minor })
}

#[test]
fn both_messages_pass_and_nothing_after_them_is_read() {
    let mut socket = Vec::new();
    socket.extend(hello(VERSION).to_bytes().unwrap());
    let ack = HelloAck::Accepted { version: VERSION, pid: 7 };
    write_ack(&mut socket, &ack).unwrap();
    let mut unread = &*socket;
    assert_eq!(read_hello(&mut unread).unwrap(), hello(VERSION));
    assert_eq!(read_ack(unread).unwrap(), ack);
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
fn any_other_version_is_refused_whatever_its_body_is() {
    for theirs in others() {
        let mut bytes = hello(theirs).to_bytes().unwrap();
        bytes[HEADER_LEN..].fill(0xff);
        let error = read_hello(&mut &*bytes).unwrap_err();
        let text = format!(
            "this side speaks protocol {VERSION} and the peer {theirs}; install gateway and worker from the \
             same release"
        );
        assert_eq!(error.to_string(), text);

        // The worker tells the gateway of its own version why it ends…
        let bytes = HelloAck::refused(&error).to_bytes().unwrap();
        let refusal = read_ack(&bytes).unwrap().accepted().unwrap_err();
        assert_eq!(refusal.to_string(), format!("the worker (protocol {VERSION}) refused: {text}"));

        // …and one of another version sees the difference in the header.
        for ack in [
            HelloAck::Refused { version: theirs, reason: text.clone() },
            HelloAck::Accepted { version: theirs, pid: 1 },
        ] {
            let bytes = ack.to_bytes().unwrap();
            assert_eq!(read_ack(&bytes).unwrap_err().to_string(), text);
        }
    }
}

#[test]
fn any_reason_fits_into_a_refusal() {
    let ack = HelloAck::refused("é".repeat(MAX_BODY));
    let bytes = ack.to_bytes().unwrap();
    assert_eq!(read_ack(&bytes).unwrap(), ack);
}

#[test]
fn a_path_that_is_too_long_is_not_sent() {
    let hello = Hello { segment: "/".repeat(MAX_BODY), ..hello(VERSION) };
    assert!(matches!(hello.to_bytes(), Err(HandshakeError::Length { .. })));
}

#[test]
fn the_longest_path_fits_beside_the_options() {
    let options = WorkerOptions {
        kv_bytes: u64::MAX,
        prefix_disk_bytes: u64::MAX,
        max_sequences: u32::MAX,
        chunk_tokens: u32::MAX,
        heartbeat_millis: u32::MAX,
        ..WorkerOptions::default()
    };
    let hello = Hello { segment: "/".repeat(4096), options, ..hello(VERSION) };
    let bytes = hello.to_bytes().unwrap();
    assert_eq!(read_hello(&mut &*bytes).unwrap(), hello);
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
    two_faced[HEADER_LEN] += 1;
    assert!(matches!(read_hello(&mut &*two_faced), Err(HandshakeError::Contradiction { .. })));

    assert!(matches!(read_ack(&whole), Err(HandshakeError::Body(_))));
}
