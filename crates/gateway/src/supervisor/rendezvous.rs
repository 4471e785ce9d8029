//! Where a gateway and one life of a worker meet: a socket and a segment of their own.

use std::{
    io,
    path::{Path, PathBuf},
};

use interprocess::local_socket::{
    GenericFilePath, ListenerOptions,
    tokio::{Listener, Stream as Socket, prelude::*},
};
use protocol::{
    frame::{FrameReceiver, FrameSender},
    handshake::{self, HandshakeError, Hello, HelloAck},
    ids::Incarnation,
    shm::{Segment, SegmentError, Side},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The gateway waits here for the worker. Dropping it removes both files.
pub struct Rendezvous {
    incarnation: Incarnation,
    listener: Listener,
    path: PathBuf,
    segment: Segment,
}

/// Both hold the segment, and its files are gone.
pub struct Joined {
    /// For bells, and for the news of the worker's death.
    pub socket: Socket,
    /// The request ring.
    pub sender: FrameSender,
    /// The report ring.
    pub receiver: FrameReceiver,
    /// The worker's process id, by its own words.
    pub pid: u32,
}

/// Why the two did not meet.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The socket can't be made.
    #[error("can't listen on {}: {source}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The segment can't be made.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The worker said no, something else, or nothing.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

impl Rendezvous {
    /// Makes both files in `dir`. Blocks while the segment's memory is reserved. Needs a runtime.
    pub fn open(dir: &Path, incarnation: Incarnation, ring_bytes: u64) -> Result<Self, JoinError> {
        let path = dir.join(format!("{}.sock", incarnation.0));
        let listen = || {
            let name = path.as_path().to_fs_name::<GenericFilePath>()?;
            ListenerOptions::new().name(name).create_tokio()
        };
        let listener = listen().map_err(|source| JoinError::Listen { path: path.clone(), source })?;
        let segment = Segment::create(dir.join(format!("{}.shm", incarnation.0)), ring_bytes)?;
        Ok(Self { incarnation, listener, path, segment })
    }

    /// The socket's path, for the worker's command line.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Accepts the worker and shakes hands. Takes as long as the worker takes: the caller limits it.
    pub async fn join(self) -> Result<Joined, JoinError> {
        let socket = self.listener.accept().await.map_err(HandshakeError::Io)?;
        let hello = Hello {
            version: handshake::VERSION,
            incarnation: self.incarnation,
            segment: self.segment.path().display().to_string(),
            ring_bytes: self.segment.ring_bytes(),
            pid: std::process::id(),
        };
        let mut io = &socket;
        io.write_all(&hello.to_bytes()?).await.map_err(HandshakeError::Io)?;
        let (_version, pid) = read_ack(&socket).await?.accepted()?;
        // Nobody else needs the names; what both hold stays. Dropping the listener removes the socket's.
        self.segment.unlink()?;
        let (producer, consumer) = self.segment.into_ends(Side::Gateway);
        Ok(Joined {
            socket,
            sender: FrameSender::new(producer, self.incarnation),
            receiver: FrameReceiver::new(consumer, self.incarnation),
            pid,
        })
    }
}

async fn read_ack(mut socket: &Socket) -> Result<HelloAck, HandshakeError> {
    let mut header = [0; handshake::HEADER_LEN];
    socket.read_exact(&mut header).await?;
    let mut body = vec![0; handshake::body_len(&header)?];
    socket.read_exact(&mut body).await?;
    HelloAck::from_parts(&header, &body)
}
