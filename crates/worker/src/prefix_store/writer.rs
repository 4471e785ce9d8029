//! The thread that writes.

use std::{io, sync::Arc, thread};

use crossbeam_channel::{Receiver, Sender, bounded};
use tracing::warn;

use super::{folder::Folder, key::Key};

/// Writes what the engine hands over. Dropping it waits until all of that is written.
#[derive(Debug)]
pub(super) struct Writer {
    /// `None` once no more is to come.
    segments: Option<Sender<Segment>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// A segment that is to be written.
#[derive(Debug)]
struct Segment {
    key: Key,
    /// Its place in its sequence.
    index: usize,
    tokens: Vec<u32>,
    kv: Vec<u8>,
}

impl Writer {
    /// At most `in_flight` segments wait at the same time.
    pub(super) fn start(folder: Arc<Folder>, in_flight: usize) -> io::Result<Self> {
        let (segments, received) = bounded(in_flight);
        let thread = thread::Builder::new()
            .name("write-prefixes".into())
            .spawn(move || write_all(&folder, &received))?;
        Ok(Self { segments: Some(segments), thread: Some(thread) })
    }

    /// Whether the disk is behind.
    pub(super) fn is_full(&self) -> bool {
        self.segments.as_ref().is_none_or(Sender::is_full)
    }

    /// Has a segment written; it is lost if the disk is behind.
    pub(super) fn write(&self, key: Key, index: usize, tokens: Vec<u32>, kv: Vec<u8>) {
        if let Some(segments) = &self.segments {
            // Nobody else sends, so that there is room if there was.
            let _ = segments.try_send(Segment { key, index, tokens, kv });
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.segments = None;
        if let Some(thread) = self.thread.take() {
            // It has logged why it panicked.
            let _ = thread.join();
        }
    }
}

fn write_all(folder: &Folder, segments: &Receiver<Segment>) {
    let mut failing = false;
    for Segment { key, index, tokens, kv } in segments {
        match folder.write(&key, index, &tokens, &kv) {
            Ok(()) => failing = false,
            // A full disk is said once, not for each segment.
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "a prefix can't be kept on disk");
                }
            }
        }
    }
}
