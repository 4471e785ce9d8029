//! The neutral core between HTTP and the fleet: what is asked for, who may have it and when, and what comes out.
//!
//! ```text
//! GenerateRequest ─ provide ─► InUse ─ admit ─► Permit ─ route ─► Link ─ open ─► Generation ─► OutputEvent … Finish
//!        │                                                │                            │ its worker is lost
//!        │                                                └───────── migrate ──────────┘
//!        └───────────────────────┴────────────────┴────────────────┴────────────┴──────► ServeError
//! ```
//!
//! A request may be for several choices: each is a generation, they are admitted together, and [`Choices`] is all of them.
//! An operation, which has a single answer, goes a shorter way: [`operation`].
//!
//! Nothing here knows HTTP or the JSON of any client. Each dialect of `http` translates between its own JSON and
//! these types.

pub mod admission;
mod caller;
mod choices;
mod deadline;
mod dispatcher;
mod error;
mod estimate;
mod event;
#[cfg(test)]
pub(crate) mod fixtures;
mod gate;
mod generation;
mod limit;
mod load;
mod metrics;
mod migrate;
pub mod operation;
mod pace;
mod priority;
mod queue;
mod rate_limit;
mod rejection;
mod request;

#[cfg(test)]
pub(crate) use self::request::plain as plain_request;
pub use self::{
    caller::Caller,
    choices::Choices,
    dispatcher::Dispatcher,
    error::{Failure, FailureKind, ModelError, RouteError, ServeError},
    event::{
        Call, DeltaText, FinishReason, MAX_TOP_LOGPROBS, Output, OutputEvent, OutputPart, TokenLogprob,
        TokenLogprobs, Usage,
    },
    gate::Occupancy,
    generation::Generation,
    load::LoadMetrics,
    metrics::ServeMetrics,
    migrate::OpenLimits,
    priority::{NotAPriority, Priority},
    queue::Bound,
    rate_limit::{RateExceeded, RateUnit},
    request::{
        ChatMessage, Constraint, ConstraintKind, Correlation, GenerateRequest, Prompt, Sampling, ToolCall,
        TraceContext,
    },
};
