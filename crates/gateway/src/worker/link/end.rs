//! Why a link ended.

use std::io;

use protocol::{
    codec::CodecError,
    frame::{FrameError, FrameKind},
};

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkEnd {
    /// The worker's end of the socket is closed: it is dead, or will be soon.
    #[error("its socket closed")]
    Closed,
    /// The worker's process has ended, though its end of the socket may be open in another one.
    #[error("its process ended")]
    Exited,
    /// The socket broke.
    #[error("its socket failed")]
    Socket(#[from] io::Error),
    /// The shared memory or a frame in it is invalid.
    #[error("its shared memory can't be used")]
    Frame(#[from] FrameError),
    /// A message could not be decoded.
    #[error("a message from it is broken")]
    Codec(#[from] CodecError),
    /// Its description of the model is longer than that of any model.
    #[error("it described its model in {0} bytes")]
    Description(usize),
    /// It sent a frame that only a gateway may send.
    #[error("it sent a frame of kind {0:?}")]
    Kind(FrameKind),
}
