//! The handshake with one worker process, over a socket and a segment made for it alone.

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

/// The outcome of a handshake: both sides hold the segment, and its files are gone.
pub struct Joined {
    /// For doorbells. It closes when the worker dies.
    pub socket: Socket,
    /// The request ring.
    pub sender: FrameSender,
    /// The report ring.
    pub receiver: FrameReceiver,
    /// The worker's process id, as it reported it.
    pub pid: u32,
}

/// Why there was no handshake.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The socket can't be created.
    #[error("can't listen on {}", path.display())]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The handshake's message carries paths as text.
    #[error("the path {} is not UTF-8; set XDG_RUNTIME_DIR or TMPDIR to one that is", .0.display())]
    Path(PathBuf),
    /// The segment can't be created or its file not removed.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The worker refused, or did not keep to the protocol.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

impl WorkerListener {
    /// Creates both files in `dir`. Blocks while the segment's memory is reserved. Needs a runtime. No process may be
    /// started until `alone` is dropped, which is when the socket exists.
    ///
    /// # Errors
    /// One of the files can't be created.
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

    /// Accepts the worker and shakes hands, which sends its options. Takes as long as the worker takes: the caller
    /// sets a limit.
    ///
    /// # Errors
    /// The worker refused, or did not keep to the protocol.
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
        // Nobody else needs the names, and both sides keep what they have open. Dropping the listener removes the
        // socket's.
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
