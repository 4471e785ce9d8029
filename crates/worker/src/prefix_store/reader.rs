//! The thread that reads.

use std::{io, sync::Arc, thread};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::{SEGMENT_TOKENS, folder::Folder, key::Key};

/// Segments of one sequence that are to be read, in order.
#[derive(Debug)]
pub(super) struct ReadRequest {
    pub(super) keys: Vec<Key>,
    /// Place of the first in its sequence.
    pub(super) first: usize,
    /// Tokens of all of them.
    pub(super) tokens: Vec<u32>,
    /// Of keys and values, in each.
    pub(super) segment_bytes: usize,
    /// Where they go. If nobody takes them any more, no more are read.
    pub(super) answer: Sender<Vec<u8>>,
}

/// Calls when it is dropped, whatever happened.
struct OnDrop<'a, F: Fn()>(&'a F);

impl<F: Fn()> Drop for OnDrop<'_, F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Requests come from the engine, each of whose sequences has one at most. `wake` is called for each segment, and at the
/// end of a request.
pub(super) fn start(
    folder: Arc<Folder>,
    wake: impl Fn() + Send + 'static,
) -> io::Result<Sender<ReadRequest>> {
    let (requests, received) = unbounded();
    thread::Builder::new().name("read-prefixes".into()).spawn(move || read_all(&folder, &received, &wake))?;
    Ok(requests)
}

fn read_all(folder: &Folder, requests: &Receiver<ReadRequest>, wake: &impl Fn()) {
    for request in requests {
        // After the request, whose end the engine must see then.
        let _ended = OnDrop(wake);
        read(folder, request, wake);
    }
}

/// Up to the first segment that is not there.
fn read(folder: &Folder, request: ReadRequest, wake: &impl Fn()) {
    let ReadRequest { keys, first, tokens, segment_bytes, answer } = request;
    for (number, (key, tokens)) in keys.iter().zip(tokens.chunks_exact(SEGMENT_TOKENS)).enumerate() {
        let Some(kv) = folder.read(key, first + number, tokens, segment_bytes) else { return };
        if answer.send(kv).is_err() {
            return;
        }
        wake();
    }
}
