//! The spans of one request.
//!
//! A stage has a span for each request, with the target [`REQUEST`] and the request's `accept` as its parent: together
//! they are its trace. Where a stage does something for many requests at once, that has a span with the target of its
//! module, which only logs have.

use tracing::{Span, debug_span};

/// The target of spans that belong to one request.
pub const REQUEST: &str = "gateway::request";

/// The span of a request, if its stages are traced: what is done for it outside of its own task finds its way here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestSpan(Option<Span>);

/// One stage of a request, until it is dropped.
#[derive(Debug, Default, PartialEq)]
pub struct StageSpan {
    request: RequestSpan,
    stage: Option<Span>,
}

impl RequestSpan {
    /// That of the request whose task this is.
    pub fn current() -> Self {
        Self(telemetry::exports_traces().then(Span::current))
    }

    /// It waits for a frame.
    pub fn batch(self) -> StageSpan {
        let stage = self.0.as_ref().map(|request| debug_span!(target: REQUEST, parent: request, "batch"));
        StageSpan { request: self, stage }
    }

    /// Its frame waits for space in the ring.
    pub fn ship(self) -> StageSpan {
        let stage = self.0.as_ref().map(|request| debug_span!(target: REQUEST, parent: request, "ship"));
        StageSpan { request: self, stage }
    }

    /// Its output comes.
    pub fn deliver(self) -> StageSpan {
        let stage = self.0.as_ref().map(|request| debug_span!(target: REQUEST, parent: request, "deliver"));
        StageSpan { request: self, stage }
    }
}

impl StageSpan {
    /// Ends this stage. Returns the request's span, for the next one.
    pub fn end(self) -> RequestSpan {
        self.request
    }
}

/// The span of an answer on its way to the client.
pub fn respond() -> Span {
    let stage = debug_span!(target: REQUEST, "respond");
    // Log lines need to say of which request they are, traced or not.
    if stage.is_disabled() { Span::current() } else { stage }
}
