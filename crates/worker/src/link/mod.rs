//! Stage 6, receive, and the way back: this worker's end of the segment and its socket.

mod connect;
mod fit;
mod receive;
mod send;

pub use connect::{Connected, connect};
pub use receive::Receiver;
pub use send::LinkSender;

#[cfg(test)]
mod tests;
