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
mod generation;
mod load;
mod metrics;
mod migrate;
mod request;

pub use self::{
    caller::Caller,
    dispatcher::Dispatcher,
    error::{Failure, FailureKind, RouteError, ServeError},
    event::{FinishReason, Output, OutputEvent, Usage},
    generation::Generation,
    load::LoadMetrics,
    metrics::ServeMetrics,
    migrate::OpenLimits,
    request::{ChatMessage, Correlation, GenerateRequest, Prompt, Sampling, TraceContext},
};
