//! This worker's end of the segment and its socket.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use protocol::{
    codec,
    frame::{BELL, FrameKind, FrameReceiver, FrameSender, Sent},
    handshake::{self, HelloAck, VERSION},
    message::{Batch, Report, StreamEvent, max_report_bytes},
    shm::{Armed, Segment, Side},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Longest wait for the doorbell before the ring is looked at again.
const SPACE_RECHECK: Duration = Duration::from_millis(20);

/// An open link.
pub(crate) struct Link {
    socket: UnixStream,
    sender: FrameSender,
    receiver: FrameReceiver,
    heartbeat: Duration,
    /// The encoded report; reused.
    body: Vec<u8>,
}

impl Link {
    /// Connects to the gateway that listens at `path`.
    pub(crate) fn connect(path: &Path) -> anyhow::Result<Self> {
        let mut socket = UnixStream::connect(path).with_context(|| {
            format!("no gateway listens at {}; it starts its workers itself", path.display())
        })?;
        let greeted = handshake::read_hello(&mut socket)
            .context("can't use the gateway's greeting")
            .and_then(|hello| Ok((Segment::open(&hello.segment)?, hello)));
        let (segment, hello) = match greeted {
            Ok(greeted) => greeted,
            Err(error) => {
                // The gateway may be gone; what went wrong here matters more.
                let _ = handshake::write_ack(&mut socket, &HelloAck::refused(format!("{error:#}")));
                return Err(error);
            }
        };
        let ack = HelloAck::Accepted { version: VERSION, pid: std::process::id() };
        handshake::write_ack(&mut socket, &ack).context("can't answer the gateway's greeting")?;
        let max_report = max_report_bytes(segment.ring_bytes());
        let (producer, consumer) = segment.into_ends(Side::Worker);
        Ok(Self {
            socket,
            sender: FrameSender::new(producer, hello.incarnation).with_max_body(max_report),
            receiver: FrameReceiver::new(consumer, hello.incarnation),
            heartbeat: Duration::from_millis(hello.options.heartbeat_millis.max(1).into()),
            body: Vec::new(),
        })
    }

    /// Time between two heartbeats, as the gateway wants it.
    pub(crate) fn heartbeat(&self) -> Duration {
        self.heartbeat
    }

    /// The next batch; `None` if there is none yet.
    pub(crate) fn receive(&mut self) -> anyhow::Result<Option<Batch>> {
        let batch = match self.receiver.try_recv()? {
            None => None,
            Some(frame) => {
                ensure!(frame.kind == FrameKind::Batch, "a gateway sends batches, not {:?}", frame.kind);
                Some(codec::decode(frame.body)?)
            }
        };
        if self.receiver.take_owed_bell() {
            self.ring();
        }
        Ok(batch)
    }

    /// Sends what happened, if anything did: as one report, or as several where one would be too large.
    pub(crate) fn send_events(&mut self, events: &mut Vec<StreamEvent>) -> anyhow::Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let mut rest = Vec::new();
        let mut report = Report::Events(std::mem::take(events));
        loop {
            codec::encode(&report, &mut self.body)?;
            let Report::Events(sent) = &mut report else { break };
            if self.body.len() > self.sender.max_body() && sent.len() > 1 {
                rest.push(sent.split_off(sent.len() / 2));
                continue;
            }
            self.send_body()?;
            sent.clear();
            match rest.pop() {
                Some(next) => *sent = next,
                None => break,
            }
        }
        if let Report::Events(sent) = report {
            // Empty, with its room for the next step's.
            *events = sent;
        }
        Ok(())
    }

    /// Sends a report, and waits for space if need be.
    pub(crate) fn send(&mut self, report: &Report) -> anyhow::Result<()> {
        codec::encode(report, &mut self.body)?;
        self.send_body()
    }

    fn send_body(&mut self) -> anyhow::Result<()> {
        loop {
            match self.sender.send(FrameKind::Report, &self.body)? {
                Sent::Done { ring_bell } => {
                    if ring_bell {
                        self.ring();
                    }
                    return Ok(());
                }
                Sent::Full { ring_bell } => {
                    if ring_bell {
                        self.ring();
                    }
                    ensure!(self.hear(SPACE_RECHECK)?, "the gateway has gone");
                }
            }
        }
    }

    /// Sleeps until something comes or until `deadline`. False if the gateway has gone.
    pub(crate) fn wait(&mut self, deadline: Instant) -> anyhow::Result<bool> {
        if self.receiver.arm() == Armed::Ready {
            return Ok(true);
        }
        self.hear(deadline.saturating_duration_since(Instant::now()))
    }

    /// Waits for doorbells, and takes them. False if the socket has ended.
    fn hear(&self, longest: Duration) -> anyhow::Result<bool> {
        let timeout = Timespec { tv_sec: longest.as_secs() as i64, tv_nsec: longest.subsec_nanos().into() };
        let mut sockets = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut sockets, Some(&timeout)) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if error == rustix::io::Errno::INTR => return Ok(true),
            Err(error) => return Err(error).context("the socket can't be waited for"),
        }
        match (&self.socket).read(&mut [0; 256]) {
            Ok(0) => Ok(false),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            // A gateway that was killed may reset the socket.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(error).context("the socket to the gateway failed"),
        }
    }

    fn ring(&self) {
        // An error means that the gateway has gone: the next look at the socket finds it.
        let _ = (&self.socket).write_all(&[BELL]);
    }
}
