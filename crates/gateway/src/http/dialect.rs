//! What a dialect is: how clients of one kind ask for text, and how they are answered.
//!
//! ```text
//!          ┌─ read ─► GenerateRequest ─► serve ──► Choices ── answer ─► Answer ─┬─ full
//! body ────┤                               │                                     └─ first, event, event, …
//!          └─ ApiError ◄───────────────────┘
//!                └─► ErrorReport ─┬─ write_error          a response
//!                                 └─ write_error_event    in a stream that has begun
//! ```
//!
//! A dialect translates, and nothing else: it neither waits nor knows workers, permits or connections.

use std::time::Duration;

use axum::routing::MethodRouter;
use bytes::BytesMut;

use super::{
    app::App,
    error::{ApiError, ErrorReport, ErrorWriter},
};
use crate::serve::{Choices, GenerateRequest, Output, OutputEvent};

/// One endpoint of a dialect that generates text.
pub(super) trait Dialect: 'static {
    /// What an answer repeats of its request, or depends on.
    type Context: Send + 'static;
    /// Writes one answer.
    type Answer: Answer;

    /// How a streamed answer is framed.
    const FRAMING: Framing;

    /// What a body asks for. Refuses whatever would change the answer and can't be done.
    ///
    /// # Errors
    /// If the body is not a request of this endpoint that can be served.
    fn read(body: &[u8]) -> Result<Asked<Self::Context>, ApiError>;

    /// The answer of choices that are about to bring their output. `echo` is the prompt's text, if the answer is to begin
    /// with it.
    ///
    /// # Errors
    /// If the operating system's random source failed.
    fn answer(
        context: Self::Context,
        choices: &Choices,
        echo: Option<String>,
    ) -> Result<Self::Answer, ApiError>;

    /// Writes an error that ends a stream. It may be the stream's first event.
    fn write_error_event(out: &mut BytesMut, error: &ErrorReport);
}

/// Writes one answer: either [`Answer::full`] once, or [`Answer::first`] and then each event.
pub(super) trait Answer: Send + Unpin + 'static {
    /// The JSON of an answer that is not streamed, of each choice's output.
    fn full(&self, outputs: &[Output]) -> Vec<u8>;

    /// Writes what comes before any output.
    fn first(&mut self, out: &mut BytesMut);

    /// Writes an event of the choice with this index. The last one of each is [`OutputEvent::Finish`].
    fn event(&mut self, out: &mut BytesMut, index: u32, event: &OutputEvent);
}

/// A request, understood.
#[derive(Debug)]
pub(super) struct Asked<C> {
    pub(super) request: GenerateRequest,
    /// How often it is to be generated, at least once, each time with another seed.
    pub(super) choices: usize,
    /// The answer begins with the prompt's text.
    pub(super) echo: bool,
    /// The answer is to be streamed.
    pub(super) stream: bool,
    /// How long the answer may take.
    pub(super) timeout: Option<Duration>,
    /// The model that is to draft tokens for the request's own.
    pub(super) draft_model: Option<String>,
    pub(super) context: C,
}

/// How a streamed answer is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Framing {
    /// `Content-Type` of the response.
    pub(super) media_type: &'static str,
    /// What is sent after a long silence. Clients skip it. `None` if the form has nothing that they skip: such a stream
    /// stays silent, and its header waits until the worker has accepted the prompt.
    pub(super) keepalive: Option<&'static [u8]>,
}

/// All of a dialect, for the router.
pub(super) struct Api {
    /// Paths and what answers on them.
    pub(super) routes: Vec<(&'static str, MethodRouter<App>)>,
    /// Writes the errors of these paths.
    pub(super) write_error: ErrorWriter,
}
