//! Where reports go. Every stage that has something to say knows this trait and nothing of the link behind it.

use protocol::message::Report;

/// Takes reports: the link to the gateway, or a test.
pub trait ReportSink: Send + Sync {
    /// Delivers `report`, waiting for space if need be.
    fn report(&self, report: &Report);
}
