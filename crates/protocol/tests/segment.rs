//! A segment's file: who may open it, when, and what happens to it.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

use std::{
    error::Error,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use protocol::{
    codec::decode,
    frame::{FrameError, FrameKind, FrameReceiver, FrameSender, Sent},
    handshake::HandshakeError,
    ids::Incarnation,
    message::Report,
    shm::{RingError, Segment, SegmentError, Side},
};
use tempfile::TempDir;

const RING: u64 = 4096;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("segment")
    }
}

fn refusal(path: &Path) -> String {
    Segment::open(path).err().unwrap().to_string()
}

#[test]
fn what_one_side_sends_the_other_receives() {
    let folder = Folder::new();
    let gateway = Segment::create(folder.file(), RING).unwrap();
    let worker = Segment::open(folder.file()).unwrap();
    assert_eq!((gateway.ring_bytes(), worker.ring_bytes()), (RING, RING));
    gateway.unlink().unwrap();
    let life = Incarnation(7);
    let (producer, consumer) = gateway.into_ends(Side::Gateway);
    let (mut requests, mut reports) = (FrameSender::new(producer, life), FrameReceiver::new(consumer, life));
    let (producer, consumer) = worker.into_ends(Side::Worker);
    let (mut answers, mut questions) = (FrameSender::new(producer, life), FrameReceiver::new(consumer, life));

    let (question, answer) = ([1; 3000], [2; 3000]);
    assert_eq!(requests.send(FrameKind::Batch, &question), Ok(Sent::Done { ring_bell: false }));
    assert_eq!(answers.send(FrameKind::Report, &answer), Ok(Sent::Done { ring_bell: false }));
    assert_eq!(questions.try_recv().unwrap().unwrap().body, question);
    assert_eq!(reports.try_recv().unwrap().unwrap().body, answer);
    assert_eq!((questions.try_recv(), reports.try_recv()), (Ok(None), Ok(None)));
}

#[test]
fn the_file_is_private_and_has_its_full_size() {
    let folder = Folder::new();
    let segment = Segment::create(folder.file(), RING).unwrap();
    assert_eq!(segment.path(), folder.file());
    let metadata = fs::metadata(folder.file()).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(metadata.len(), 4096 + 2 * RING);
}

#[test]
fn golden_header() {
    let folder = Folder::new();
    let _segment = Segment::create(folder.file(), RING).unwrap();
    let bytes = fs::read(folder.file()).unwrap();
    let expected = *b"kr-shm\r\n\x01\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0";
    assert_eq!(bytes[..24], expected);
    assert!(bytes[24..].iter().all(|byte| *byte == 0));
}

#[test]
fn unlink_is_the_creators_and_happens_once() {
    let folder = Folder::new();
    let gateway = Segment::create(folder.file(), RING).unwrap();
    let worker = Segment::open(folder.file()).unwrap();
    worker.unlink().unwrap();
    drop(worker);
    assert!(folder.file().exists());
    gateway.unlink().unwrap();
    assert!(!folder.file().exists());
    fs::write(folder.file(), b"someone else's").unwrap();
    gateway.unlink().unwrap();
    drop(gateway);
    assert!(folder.file().exists());
}

#[test]
fn the_file_goes_with_the_last_end_at_the_latest() {
    let folder = Folder::new();
    drop(Segment::create(folder.file(), RING).unwrap());
    assert!(!folder.file().exists());
    let (producer, consumer) = Segment::create(folder.file(), RING).unwrap().into_ends(Side::Gateway);
    drop(producer);
    assert!(folder.file().exists());
    drop(consumer);
    assert!(!folder.file().exists());
}

#[test]
fn an_existing_file_is_not_taken_over() {
    let folder = Folder::new();
    let _first = Segment::create(folder.file(), RING).unwrap();
    let second = Segment::create(folder.file(), RING);
    assert!(matches!(second, Err(SegmentError::Io { action: "create it", .. })));
    assert!(folder.file().exists(), "the failure must not remove the first one's file");
}

/// An error's message and those of its sources.
fn chain(error: &(dyn Error + 'static)) -> Vec<String> {
    let (mut messages, mut source) = (vec![error.to_string()], error.source());
    while let Some(error) = source {
        messages.push(error.to_string());
        source = error.source();
    }
    messages
}

/// An error says what failed, and its source why: a chain of them says everything once.
#[test]
fn no_error_repeats_its_source() {
    let broken = || decode::<Report>(b"\xff").unwrap_err();
    let ended = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    let folder = Folder::new();
    let errors: [(Box<dyn Error>, usize); 8] = [
        (Box::new(broken()), 2),
        (Box::new(decode::<Report>(&[4, 4]).unwrap_err()), 1),
        (Box::new(HandshakeError::Io(ended())), 2),
        (Box::new(HandshakeError::Body(broken())), 3),
        (Box::new(FrameError::Ring(RingError::NoRoom { wanted: 2, free: 1 })), 1),
        (Box::new(FrameError::Corrupt { what: "it is short" }), 1),
        (Box::new(Segment::open(folder.file()).err().unwrap()), 2),
        (Box::new(Segment::create(folder.file(), 1).err().unwrap()), 1),
    ];
    for (error, links) in errors {
        let chain = chain(&*error);
        assert_eq!(chain.len(), links, "{chain:?}");
        assert!(chain.windows(2).all(|pair| !pair[0].contains(&pair[1])), "{chain:?}");
    }
}

#[test]
fn ring_sizes_are_powers_of_two_in_bounds() {
    let folder = Folder::new();
    for ring_bytes in [0, 1, 2048, 4095, 4097, 6144, 1 << 31, u64::MAX] {
        let refused = Segment::create(folder.file(), ring_bytes);
        assert!(matches!(refused, Err(SegmentError::RingBytes { .. })), "{ring_bytes}");
        assert!(!folder.file().exists());
    }
}

#[test]
fn a_damaged_file_is_refused_with_a_reason() {
    let folder = Folder::new();
    let path = folder.file();
    let _segment = Segment::create(&path, RING).unwrap();
    let whole = fs::read(&path).unwrap();
    let changed = |at: usize, to: u8| {
        let mut bytes = whole.clone();
        bytes[at] = to;
        bytes
    };
    let cases = [
        (changed(0, b'K'), "it starts with other bytes"),
        (changed(8, 2), "its layout is 2, this build's is 1"),
        (changed(16, 1), "a ring of 4097 bytes can't be made"),
        (changed(17, 0x20), "it has 12288 bytes instead of 20480"),
        (whole[..whole.len() - 1].to_vec(), "it has 12287 bytes instead of 12288"),
        (whole[..20].to_vec(), "can't read its header"),
    ];
    for (bytes, reason) in cases {
        fs::write(&path, bytes).unwrap();
        assert!(refusal(&path).contains(reason), "{} instead of {reason}", refusal(&path));
    }
    fs::write(&path, &whole).unwrap();
    Segment::open(&path).unwrap();
}

#[test]
fn a_file_that_others_may_open_is_refused() {
    let folder = Folder::new();
    let _segment = Segment::create(folder.file(), RING).unwrap();
    fs::set_permissions(folder.file(), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(refusal(&folder.file()).contains("its mode 640 lets other users in"));
}

#[test]
fn a_second_worker_is_refused_once_the_first_has_used_it() {
    let folder = Folder::new();
    let _gateway = Segment::create(folder.file(), RING).unwrap();
    let (producer, _consumer) = Segment::open(folder.file()).unwrap().into_ends(Side::Worker);
    let _ = FrameSender::new(producer, Incarnation(1)).send(FrameKind::Report, b"hello").unwrap();
    assert!(refusal(&folder.file()).contains("another worker has used it already"));
}
