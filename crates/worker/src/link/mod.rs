//! Stage 6, receive, and the way back: this worker's end of the segment and its socket.

mod connect;
mod fit;
mod receive;
mod send;

pub use connect::{Connected, connect};
use protocol::message::Report;
pub use receive::Receiver;
pub use send::LinkSender;

/// Where reports go: to the gateway, or to a test.
pub trait Reports: Send + Sync {
    /// Delivers `report`, waiting for space if need be.
    fn report(&self, report: &Report);
}
