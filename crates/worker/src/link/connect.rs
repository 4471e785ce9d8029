//! Establishing the link: socket, handshake, segment.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use interprocess::local_socket::{GenericFilePath, Stream, ToFsName, traits::Stream as _};
use protocol::{
    frame::{FrameReceiver, FrameSender},
    handshake::{self, Hello, HelloAck, VERSION},
    message::max_report_bytes,
    options::WorkerOptions,
    shm::{Segment, Side},
};

/// An open link.
pub struct Connected {
    /// Carries the doorbells; it ends when the gateway does.
    pub socket: Arc<Stream>,
    /// Frames to the gateway.
    pub sender: FrameSender,
    /// Frames from the gateway.
    pub receiver: FrameReceiver,
    /// How the gateway wants the worker to work.
    pub options: WorkerOptions,
}

/// Connects to the gateway that listens at `path`.
///
/// # Errors
/// Nobody listens there, or the two can't agree; the gateway has then been told why.
pub fn connect(path: &Path) -> anyhow::Result<Connected> {
    let name = path.to_fs_name::<GenericFilePath>().context("not a socket path")?;
    let socket = Stream::connect(name)
        .with_context(|| format!("no gateway listens at {}; it starts its workers itself", path.display()))?;
    let refuse =
        |error: &dyn std::fmt::Display| handshake::write_ack(&mut &socket, &HelloAck::refused(error));
    let (hello, segment) = match greet(&socket) {
        Ok(greeted) => greeted,
        Err(error) => {
            // The gateway may be gone; what went wrong here matters more.
            let _ = refuse(&format!("{error:#}"));
            return Err(error);
        }
    };
    let ack = HelloAck::Accepted { version: VERSION, pid: std::process::id() };
    handshake::write_ack(&mut &socket, &ack).context("can't answer the gateway's greeting")?;
    let max_report = max_report_bytes(segment.ring_bytes());
    let (producer, consumer) = segment.into_ends(Side::Worker);
    Ok(Connected {
        socket: Arc::new(socket),
        sender: FrameSender::new(producer, hello.incarnation).with_max_body(max_report),
        receiver: FrameReceiver::new(consumer, hello.incarnation),
        options: hello.options,
    })
}

fn greet(socket: &Stream) -> anyhow::Result<(Hello, Segment)> {
    let hello = handshake::read_hello(&mut &*socket).context("can't use the gateway's greeting")?;
    let segment = Segment::open(Path::new(&hello.segment))
        .with_context(|| format!("shared memory segment {}", hello.segment))?;
    Ok((hello, segment))
}
