//! The opening talk on a worker's local socket.
//!
//! ```text
//! gateway                                   worker
//!    | listens on a socket of its own for it   |
//!    | <------------- connects --------------- |
//!    | ------------- Hello ------------------> |  maps the segment
//!    | <------------ HelloAck ---------------- |
//!    | unlinks the segment                     |
//!    | <------- bells, until one closes -----> |
//! ```
//!
//! Bytes of both messages: magic (8), major (2), minor (2), length of the body (4), body. Integers are
//! little-endian. These 16 bytes never change, so that any two versions can tell each other apart. All that follows,
//! here and in the rings, is a [`codec`] encoding by position, which only the same version understands: the versions
//! must be equal, and each side refuses any other.

use std::{
    fmt,
    io::{self, Read, Write},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    codec::{self, CodecError},
    ids::Incarnation,
    options::WorkerOptions,
};

/// What this build speaks. Raised with every change of a message, a frame or the segment.
pub const VERSION: ProtocolVersion = ProtocolVersion { major: 4, minor: 6 };

/// First bytes of both messages.
pub const MAGIC: [u8; 8] = *b"kr-mlx\r\n";

/// Bytes before the body.
pub const HEADER_LEN: usize = 16;

/// Most bytes of a body: a path (4 KiB at most) and the options, or a reason.
pub const MAX_BODY: usize = 8 << 10;

/// Most bytes of [`HelloAck::Refused`]'s reason; longer ones are cut, so that a refusal always fits.
const MAX_REASON: usize = 4 << 10;

/// Gateway and worker ship together, so both must speak the same one: nothing is negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolVersion {
    /// Raised when how the two work together changes.
    pub major: u16,
    /// Raised when only the bytes change.
    pub minor: u16,
}

/// Gateway to worker: who I am, and where we meet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version that the gateway speaks.
    pub version: ProtocolVersion,
    /// Of the worker that is being greeted; goes into all frames of both.
    pub incarnation: Incarnation,
    /// Path of the segment's file.
    pub segment: String,
    /// Data bytes of each of its rings.
    pub ring_bytes: u64,
    /// The gateway's process id.
    pub pid: u32,
    /// How the worker is to work.
    pub options: WorkerOptions,
}

/// Worker to gateway: the answer to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HelloAck {
    /// The segment is mapped; frames may be sent.
    Accepted {
        /// The version that the worker speaks: the gateway's own.
        version: ProtocolVersion,
        /// The worker's process id.
        pid: u32,
    },
    /// The worker exits after this.
    Refused {
        /// The worker's own version.
        version: ProtocolVersion,
        /// What is wrong, for a person.
        reason: String,
    },
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The socket failed or ended.
    #[error("the handshake ended early")]
    Io(#[from] io::Error),
    /// The peer is some other program.
    #[error(
        "the handshake starts with {found:02x?} instead of {MAGIC:02x?}: the peer is not part of kr-serve-mlx"
    )]
    Magic {
        /// What came.
        found: [u8; 8],
    },
    /// The peer is of another build.
    #[error(
        "this side speaks protocol {ours} and the peer {theirs}; install gateway and worker from the same release"
    )]
    Version {
        /// This side's.
        ours: ProtocolVersion,
        /// The peer's.
        theirs: ProtocolVersion,
    },
    /// The body's announced or actual size is wrong.
    #[error(
        "a handshake body of {len} bytes; at most {MAX_BODY} are allowed, and exactly what was announced"
    )]
    Length {
        /// In bytes.
        len: usize,
    },
    /// The body can't be understood.
    #[error("the handshake's body can't be used")]
    Body(#[from] CodecError),
    /// Header and body name different versions.
    #[error("handshake header says protocol {header} and its body {body}")]
    Contradiction {
        /// What the header says.
        header: ProtocolVersion,
        /// What the body says.
        body: ProtocolVersion,
    },
    /// The worker said no.
    #[error("the worker (protocol {version}) refused: {reason}")]
    Refused {
        /// The worker's version.
        version: ProtocolVersion,
        /// The worker's words.
        reason: String,
    },
}

impl ProtocolVersion {
    /// Whether a peer of version `theirs` can be understood.
    ///
    /// # Errors
    /// [`HandshakeError::Version`] if it is not the same.
    pub fn require(self, theirs: Self) -> Result<(), HandshakeError> {
        if self == theirs { Ok(()) } else { Err(HandshakeError::Version { ours: self, theirs }) }
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Hello {
    /// Header and body, ready to be written.
    ///
    /// # Errors
    /// If the segment's path is too long.
    pub fn to_bytes(&self) -> Result<Vec<u8>, HandshakeError> {
        to_bytes(self.version, self)
    }

    /// What `header` and the [`body_len`] bytes after it mean.
    ///
    /// # Errors
    /// If they are not a `Hello` of our version.
    pub fn from_parts(header: &[u8; HEADER_LEN], body: &[u8]) -> Result<Self, HandshakeError> {
        let hello: Self = from_parts(header, body)?;
        check_agreement(header, hello.version)?;
        Ok(hello)
    }
}

impl HelloAck {
    /// A refusal for `reason`, in this build's version.
    pub fn refused(reason: impl fmt::Display) -> Self {
        let mut reason = reason.to_string();
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        Self::Refused { version: VERSION, reason }
    }

    /// Header and body, ready to be written.
    ///
    /// # Errors
    /// If the reason is too long; [`HelloAck::refused`] makes none that is.
    pub fn to_bytes(&self) -> Result<Vec<u8>, HandshakeError> {
        to_bytes(self.version(), self)
    }

    /// What `header` and the [`body_len`] bytes after it mean.
    ///
    /// # Errors
    /// If they are not a `HelloAck` of our version.
    pub fn from_parts(header: &[u8; HEADER_LEN], body: &[u8]) -> Result<Self, HandshakeError> {
        let ack: Self = from_parts(header, body)?;
        check_agreement(header, ack.version())?;
        Ok(ack)
    }

    /// The worker's process id.
    ///
    /// # Errors
    /// [`HandshakeError::Refused`] if that is what the answer was.
    pub fn accepted(self) -> Result<u32, HandshakeError> {
        match self {
            Self::Accepted { pid, .. } => Ok(pid),
            Self::Refused { version, reason } => Err(HandshakeError::Refused { version, reason }),
        }
    }

    fn version(&self) -> ProtocolVersion {
        match *self {
            Self::Accepted { version, .. } | Self::Refused { version, .. } => version,
        }
    }
}

/// How many bytes of body follow after `header`.
///
/// # Errors
/// If the peer is of another kind or another version, or the body too long. The worker answers such an
/// error with [`HelloAck::refused`].
pub fn body_len(header: &[u8; HEADER_LEN]) -> Result<usize, HandshakeError> {
    let [m0, m1, m2, m3, m4, m5, m6, m7, _, _, _, _, l0, l1, l2, l3] = *header;
    let magic = [m0, m1, m2, m3, m4, m5, m6, m7];
    if magic != MAGIC {
        return Err(HandshakeError::Magic { found: magic });
    }
    VERSION.require(version_of(header))?;
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if len > MAX_BODY {
        return Err(HandshakeError::Length { len });
    }
    Ok(len)
}

/// Blocking: receives the gateway's part, and not a byte more.
///
/// # Errors
/// If the socket ends, or what came is not a `Hello` of our version.
pub fn read_hello(from: &mut impl Read) -> Result<Hello, HandshakeError> {
    let mut header = [0; HEADER_LEN];
    from.read_exact(&mut header)?;
    let mut body = vec![0; body_len(&header)?];
    from.read_exact(&mut body)?;
    Hello::from_parts(&header, &body)
}

/// Blocking: sends the worker's part.
///
/// # Errors
/// If the socket fails or the message is too long.
pub fn write_ack(to: &mut impl Write, ack: &HelloAck) -> Result<(), HandshakeError> {
    Ok(to.write_all(&ack.to_bytes()?)?)
}

fn to_bytes(version: ProtocolVersion, message: &impl Serialize) -> Result<Vec<u8>, HandshakeError> {
    let mut body = Vec::new();
    codec::encode(message, &mut body)?;
    let len = match u32::try_from(body.len()) {
        Ok(len) if body.len() <= MAX_BODY => len,
        _ => return Err(HandshakeError::Length { len: body.len() }),
    };
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&version.major.to_le_bytes());
    bytes.extend_from_slice(&version.minor.to_le_bytes());
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

fn from_parts<T: DeserializeOwned>(header: &[u8; HEADER_LEN], body: &[u8]) -> Result<T, HandshakeError> {
    if body_len(header)? != body.len() {
        return Err(HandshakeError::Length { len: body.len() });
    }
    Ok(codec::decode(body)?)
}

fn check_agreement(header: &[u8; HEADER_LEN], body: ProtocolVersion) -> Result<(), HandshakeError> {
    let header = version_of(header);
    if header == body { Ok(()) } else { Err(HandshakeError::Contradiction { header, body }) }
}

fn version_of(header: &[u8; HEADER_LEN]) -> ProtocolVersion {
    let [.., a0, a1, i0, i1, _, _, _, _] = *header;
    ProtocolVersion { major: u16::from_le_bytes([a0, a1]), minor: u16::from_le_bytes([i0, i1]) }
}
