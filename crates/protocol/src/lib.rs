//! What gateway and worker say to each other, and how it gets across.
//!
//! ```text
//! Batch, Report      message    what is said
//!   bytes            codec      bincode, bounded
//!   frames           frame      parts, checksum, incarnation
//!   ring             shm        shared memory, one writer and one reader
//! ```
//!
//! The [`handshake`] comes first, over a local socket that stays open afterwards: its end tells of the
//! peer's death, and one byte on it ([`frame::BELL`]) wakes the peer.
//!
//! What is not here: sockets, threads and sleeping. Both sides bring their own, the gateway with tokio and the
//! worker with plain threads. Only two functions wait: [`handshake::read_hello`] and [`handshake::write_ack`] block
//! on what they are given, for the worker; the gateway uses the parts that they are made of.
//!
//! Modules in reading order.

pub mod ids;
pub mod memory;
pub mod message;
pub mod options;
pub mod stored;

pub mod busy_poll;
pub mod codec;
pub mod frame;
pub mod handshake;
pub mod shm;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
