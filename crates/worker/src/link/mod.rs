//! Stage 6, receive, and the way back: this worker's end of the segment and its socket.
//!
//! ```text
//! connect   socket, handshake, segment
//! receive   frames -> submissions, and where each goes
//! send      reports -> frames, from any thread (fit: split to what the gateway accepts)
//! ```

mod connect;
mod fit;
mod receive;
mod send;

pub use connect::{Connected, connect};
pub use receive::Receiver;
pub use send::LinkSender;

#[cfg(test)]
mod tests;
