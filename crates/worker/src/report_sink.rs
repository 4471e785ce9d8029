//! Where reports go. Stages that report something depend on this trait, and not on the link that implements it.

use protocol::message::Report;

/// Takes reports: the link to the gateway, or a test.
pub trait ReportSink: Send + Sync {
    /// Delivers `report`, waiting for space if need be.
    fn report(&self, report: &Report);
}
