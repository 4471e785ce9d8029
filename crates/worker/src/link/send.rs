//! Frames to the gateway, from any thread.

use std::{
    io::Write,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use interprocess::local_socket::Stream;
use protocol::{
    codec,
    frame::{BELL, FrameKind, FrameSender, Sent},
    message::Report,
};
use tracing::error;

use super::Reports;

/// Longest wait for a bell before the ring is looked at again. The bell comes by the receiving thread, which
/// may itself be waiting for the engine; this keeps the two from waiting for each other.
const SPACE_RECHECK: Duration = Duration::from_millis(20);

/// The sending end, shared by all threads that report.
pub struct LinkSender {
    frames: Mutex<Frames>,
    socket: Arc<Stream>,
    /// Bells heard; changes when there may be space again.
    bells: Mutex<u64>,
    bell_heard: Condvar,
}

struct Frames {
    sender: FrameSender,
    /// Reused for every encoding.
    body: Vec<u8>,
}

impl LinkSender {
    /// Takes the sending end of a link.
    pub fn new(sender: FrameSender, socket: Arc<Stream>) -> Self {
        let frames = Mutex::new(Frames { sender, body: Vec::new() });
        Self { frames, socket, bells: Mutex::new(0), bell_heard: Condvar::new() }
    }

    /// Called by the receiving thread when the gateway has rung.
    pub fn hear_bell(&self) {
        *self.bells.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.bell_heard.notify_all();
    }

    /// Wakes the gateway.
    pub fn ring(&self) {
        // An error means that the gateway has gone: the receiving thread sees it too, and acts.
        let _ = (&*self.socket).write_all(&[BELL]);
    }

    fn wait_for_space(&self, heard: u64) {
        let bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.bell_heard.wait_timeout_while(bells, SPACE_RECHECK, |bells| *bells == heard);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn bells(&self) -> u64 {
        *self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reports for LinkSender {
    fn report(&self, report: &Report) {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let Frames { sender, body } = &mut *frames;
        if let Err(error) = codec::encode(report, body) {
            error!(%error, "a report could not be encoded");
            return;
        }
        loop {
            let heard = self.bells();
            match sender.send(FrameKind::Report, body) {
                Ok(Sent::Done { ring_bell }) => {
                    if ring_bell {
                        self.ring();
                    }
                    return;
                }
                Ok(Sent::Full { ring_bell }) => {
                    if ring_bell {
                        self.ring();
                    }
                    self.wait_for_space(heard);
                }
                Err(error) => {
                    error!(%error, "the link to the gateway is broken");
                    std::process::exit(1);
                }
            }
        }
    }
}
