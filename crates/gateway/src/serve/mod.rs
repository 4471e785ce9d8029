//! The neutral core between HTTP and the fleet: what is asked for, who may have it and when, and what comes out.
//!
//! ```text
//! GenerateRequest ─ admit ─► Permit ─ route ─► Link ─ open ─► Generation ─► OutputEvent … Finish
//!        │                              ▲                           │ its worker is lost
//!        │                              └────────── migrate ────────┘
//!        └───────────────────────────┴────────────────┴────────────┴──────► ServeError
//! ```
//!
//! Nothing here knows HTTP or the JSON of any client. Each dialect of `http` translates between its own JSON and
//! these types.

pub mod admission;
mod caller;
mod dispatcher;
mod error;
mod event;
#[cfg(test)]
pub(crate) mod fixtures;
mod generation;
mod metrics;
mod migrate;
mod request;

pub use self::{
    caller::Caller,
    dispatcher::Dispatcher,
    error::{Failure, FailureKind, RouteError, ServeError},
    event::{DeltaText, FinishReason, Output, OutputEvent, Usage},
    generation::Generation,
    metrics::ServeMetrics,
    migrate::OpenLimits,
    request::{ChatMessage, GenerateRequest, Prompt, Sampling},
};
