//! How far a model has come.

use protocol::message::Failure;

/// How far a model has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::fleet) enum Phase {
    /// No worker has served yet, and not all of them have failed.
    Loading,
    /// A worker has served. It takes requests as long as a worker is ready.
    Ready,
    /// The first process of every worker failed; this was the last failure. The workers are being ended.
    Failing(Failure),
    /// It takes nothing new, and finishes what it has: on another worker if one dies.
    Draining,
    /// Its workers are being ended.
    Ending,
    /// It could not be loaded. It has no workers.
    Failed(Failure),
    /// It has been unloaded, and its workers are gone.
    Gone,
}
