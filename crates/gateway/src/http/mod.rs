//! Stages *accept* and *respond*: HTTP, and the JSON of each kind of client.
//!
//! ```text
//! body ─ Dialect::read ─► GenerateRequest ─ serve ─► Generation
//!                                                       │ prepared: the header goes out
//!            Answer::full, or a stream of Answer::event ◄┘ which owns the place
//! ```
//!
//! `dialect` says what a dialect does; each has a folder, and `router` has a line for it. The rest serves all of them.

mod access;
mod admin;
mod admin_request;
mod app;
mod auth;
mod body;
mod budget;
mod dialect;
mod echo;
mod error;
mod generation;
mod guard;
mod health;
mod json;
mod metrics;
mod openai;
mod origin;
mod public;
mod request_id;
mod router;
pub mod server;
mod sse;
mod stream;
mod terms;
mod throttle;
mod trace_context;
mod unread;

pub use self::{
    app::{App, Metrics, Serving},
    error::{ErrorKind, ErrorSpec, RetryAfter, error_table},
    metrics::HttpMetrics,
    router::routes,
};
