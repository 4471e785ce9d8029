//! Why a request was not let in, and when it may be.

use std::time::Duration;

use crate::serve::{
    gate::Occupancy,
    queue::Bound,
    rate_limit::{RateExceeded, RateUnit},
};

/// Why a request was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// As much waits as may wait.
    #[error("{}", queue_full(*bound, occupancy, *retry_after))]
    QueueFull {
        /// Which bound is reached.
        bound: Bound,
        /// How the model's places and its queue are filled.
        occupancy: Occupancy,
        /// When a place is likely.
        retry_after: Duration,
    },
    /// No stream ended in time.
    #[error(
        "{} requests run, as many as may at the moment, and no place came free for this one within {} s; try again in \
         {:.1} s", occupancy.running, waited.as_secs_f32(), retry_after.as_secs_f32()
    )]
    WaitedTooLong {
        /// For how long the request waited.
        waited: Duration,
        /// How the model's places and its queue are filled.
        occupancy: Occupancy,
        /// When a place is likely.
        retry_after: Duration,
    },
    /// The client's own deadline.
    #[error("the request's deadline passed while it waited; it was not run")]
    DeadlinePassed,
    /// The caller's rate is used up.
    #[error(
        "the rate of {} {} a minute is used up; try again in {:.1} s", .0.per_minute, .0.unit.name(),
        .0.retry_after.as_secs_f32()
    )]
    RateLimited(RateExceeded),
    /// The gateway is going down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

impl Rejection {
    /// Value of the metric's label.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::QueueFull { bound: Bound::Requests, .. } => "queue_full",
            Self::QueueFull { bound: Bound::Tokens, .. } => "queue_tokens",
            Self::WaitedTooLong { .. } => "waited_too_long",
            Self::DeadlinePassed => "deadline",
            Self::RateLimited(RateExceeded { unit: RateUnit::Requests, .. }) => "requests_per_minute",
            Self::RateLimited(RateExceeded { unit: RateUnit::Tokens, .. }) => "tokens_per_minute",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// When it is likely that the same request is let in; `None` if that can't be told.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Self::QueueFull { retry_after, .. } | Self::WaitedTooLong { retry_after, .. } => {
                Some(retry_after)
            }
            Self::RateLimited(exceeded) => Some(exceeded.retry_after),
            Self::DeadlinePassed | Self::ShuttingDown => None,
        }
    }
}

fn queue_full(bound: Bound, occupancy: &Occupancy, retry_after: Duration) -> String {
    let Occupancy { limit, waiting, max_waiting, waiting_tokens, max_waiting_tokens, .. } = occupancy;
    let full = match bound {
        Bound::Requests => format!("{waiting} requests wait, of {max_waiting} that may"),
        Bound::Tokens => {
            format!("requests of about {waiting_tokens} tokens wait, and {max_waiting_tokens} may")
        }
    };
    format!(
        "the server is at its limit of {limit} streams, and {full}; try again in {:.1} s",
        retry_after.as_secs_f32()
    )
}
