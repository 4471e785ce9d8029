//! Why an operation was not let in. Errors name it, and what returns such errors has it.

use std::time::Duration;

/// Why an operation was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperationRejection {
    /// As many wait as may wait.
    #[error("the model's workers are busy and {waiting} operations wait already; try again later")]
    QueueFull {
        /// Operations that wait.
        waiting: usize,
    },
    /// No place came free in time.
    #[error("the model's workers are busy and had no time within {} s; try again later", waited.as_secs_f32())]
    WaitedTooLong {
        /// For how long it waited.
        waited: Duration,
    },
}
