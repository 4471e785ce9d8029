//! Where a gateway and one life of a worker meet: a socket and a segment of their own.

use std::{
    io,
    path::{Path, PathBuf},
    sync::MutexGuard,
};

use interprocess::local_socket::{
    GenericFilePath, ListenerOptions,
    tokio::{Listener, Stream as Socket, prelude::*},
};
use protocol::{
    frame::{FrameReceiver, FrameSender},
    handshake::{self, HandshakeError, Hello, HelloAck},
    ids::Incarnation,
    message::max_report_bytes,
    options::WorkerOptions,
    shm::{Segment, SegmentError, Side},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The gateway waits here for the worker. Dropping it removes both files.
pub struct WorkerListener {
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
    #[error("can't listen on {}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The handshake's message carries paths as text.
    #[error("the path {} is not UTF-8; set XDG_RUNTIME_DIR or TMPDIR to one that is", .0.display())]
    Path(PathBuf),
    /// The segment can't be made.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The worker said no, something else, or nothing.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

impl WorkerListener {
    /// Makes both files in `dir`. Blocks while the segment's memory is reserved. Needs a runtime. No process may be
    /// started until `alone` is dropped, which is when the socket is there.
    pub fn open(
        dir: &Path,
        incarnation: Incarnation,
        ring_bytes: u64,
        alone: MutexGuard<'_, ()>,
    ) -> Result<Self, JoinError> {
        let path = dir.join(format!("{}.sock", incarnation.0));
        let listen = || {
            let name = path.as_path().to_fs_name::<GenericFilePath>()?;
            ListenerOptions::new().name(name).create_tokio()
        };
        let listener = listen().map_err(|source| JoinError::Listen { path: path.clone(), source })?;
        drop(alone);
        let segment = Segment::create(dir.join(format!("{}.shm", incarnation.0)), ring_bytes)?;
        Ok(Self { incarnation, listener, path, segment })
    }

    /// The socket's path, for the worker's command line.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Accepts the worker, tells it its options and shakes hands. Takes as long as the worker takes: the caller limits
    /// it.
    pub async fn join(self, options: WorkerOptions) -> Result<Joined, JoinError> {
        let socket = self.listener.accept().await.map_err(HandshakeError::Io)?;
        let segment = self.segment.path();
        let hello = Hello {
            version: handshake::VERSION,
            incarnation: self.incarnation,
            segment: segment.to_str().ok_or_else(|| JoinError::Path(segment.to_owned()))?.to_owned(),
            ring_bytes: self.segment.ring_bytes(),
            pid: std::process::id(),
            options,
        };
        let mut io = &socket;
        io.write_all(&hello.to_bytes()?).await.map_err(HandshakeError::Io)?;
        let pid = read_ack(&socket).await?.accepted()?;
        // Nobody else needs the names; what both hold stays. Dropping the listener removes the socket's.
        self.segment.unlink()?;
        let max_report = max_report_bytes(self.segment.ring_bytes());
        let (producer, consumer) = self.segment.into_ends(Side::Gateway);
        Ok(Joined {
            socket,
            sender: FrameSender::new(producer, self.incarnation),
            receiver: FrameReceiver::new(consumer, self.incarnation).with_max_body(max_report),
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
