//! A generation that a worker has accepted: its output, and the place that it takes.

use std::task::{Context, Poll, ready};

use protocol::message::StreamEventKind;
use tracing::error;

use super::{
    admission::Permit, deadline::Deadline, error::ServeError, event::OutputEvent, metrics::Unfinished,
    migrate::MigratingStream,
};

/// A generation that a worker has accepted. Yields its output, and ends after one [`OutputEvent::Finish`] or one
/// error. Dropping it earlier cancels the generation.
#[derive(Debug)]
pub struct Generation {
    /// Before the permit, so that a dropped generation is cancelled before the next request gets its place.
    events: MigratingStream,
    permit: Permit,
    deadline: Deadline,
    ended: bool,
    unfinished: Option<Unfinished>,
}

impl Generation {
    /// Waits until the worker has accepted the prompt. Parameters are dropped from the last to the first, so the stream
    /// follows the permit, for the reason above.
    pub(super) async fn prepared(
        mut permit: Permit,
        mut events: MigratingStream,
    ) -> Result<Self, ServeError> {
        let mut deadline = Deadline::new(permit.deadline());
        let first = std::future::poll_fn(|cx| events.poll_next(cx));
        match deadline.bound(first).await?.transpose()? {
            Some(StreamEventKind::Prepared { prompt_tokens }) => {
                permit.count_prompt(prompt_tokens);
                Ok(Self { events, permit, deadline, ended: false, unfinished: None })
            }
            Some(StreamEventKind::Failed(failure)) => Err(failure.into()),
            other => Err(unexpected(other.as_ref())),
        }
    }

    /// Measures how it ends.
    pub(super) fn measured(self, unfinished: Unfinished) -> Self {
        Self { unfinished: Some(unfinished), ..self }
    }

    /// Digest of the model that generates, in hex.
    pub fn digest(&self) -> &str {
        self.events.digest()
    }

    /// It ends with an error.
    pub(super) fn fail(&mut self) {
        self.ended = true;
        if let Some(unfinished) = &mut self.unfinished {
            unfinished.fail();
        }
    }

    /// The next event; `None` after the last one. Reading is what lets the worker go on: it may send only as much
    /// as was read, and a little more.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<OutputEvent, ServeError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.deadline.poll(cx).is_ready() {
            self.fail();
            return Poll::Ready(Some(Err(ServeError::DeadlinePassed)));
        }
        loop {
            let event = match ready!(self.events.poll_next(cx)).transpose() {
                Ok(Some(StreamEventKind::Delta(delta))) => {
                    self.permit.count_cached(self.events.cached_tokens());
                    self.permit.count_answer(delta.tokens.len());
                    if delta.text.is_empty() && delta.parts.is_empty() && delta.logprobs.is_empty() {
                        // Tokens whose text is not complete yet.
                        continue;
                    }
                    Ok(OutputEvent::Delta { text: delta.text, parts: delta.parts, logprobs: delta.logprobs })
                }
                Ok(Some(StreamEventKind::Finished { reason, usage })) => {
                    Ok(OutputEvent::Finish { reason, usage })
                }
                Ok(Some(StreamEventKind::Failed(failure))) => Err(failure.into()),
                Ok(other) => Err(unexpected(other.as_ref())),
                Err(error) => Err(error),
            };
            self.ended = !matches!(event, Ok(OutputEvent::Delta { .. }));
            if let Some(unfinished) = &mut self.unfinished {
                match &event {
                    Ok(OutputEvent::Delta { .. }) => {}
                    Ok(OutputEvent::Finish { reason, .. }) => unfinished.finish(*reason),
                    Err(_) => unfinished.fail(),
                }
            }
            return Poll::Ready(Some(event));
        }
    }
}

/// For the log, which must not show what a client reads.
fn unexpected(event: Option<&StreamEventKind>) -> ServeError {
    let event = match event {
        Some(StreamEventKind::Prepared { .. }) => "prepared",
        Some(StreamEventKind::Started { .. }) => "started",
        Some(StreamEventKind::Delta(_)) => "delta",
        Some(StreamEventKind::Finished { .. }) => "finished",
        Some(StreamEventKind::Failed(_)) => "failed",
        Some(StreamEventKind::Answered(_)) => "answered",
        None => "nothing",
    };
    error!(event, "a worker sent its events in a wrong order");
    ServeError::Internal
}

#[cfg(test)]
mod tests;
