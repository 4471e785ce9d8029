//! When a request has to be answered.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tokio::time::{Sleep, sleep_until};

use super::error::ServeError;

/// A time that may come, or never does.
#[derive(Debug)]
pub(super) struct Deadline(Option<Pin<Box<Sleep>>>);

impl Deadline {
    /// Needs a runtime if there is one.
    pub(super) fn new(at: Option<Instant>) -> Self {
        Self(at.map(|at| Box::pin(sleep_until(at.into()))))
    }

    /// Ready when it has come.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// What `future` returns, unless the time comes earlier.
    pub(super) async fn bound<F: Future>(&mut self, future: F) -> Result<F::Output, ServeError> {
        tokio::select! {
            biased;
            () = poll_fn(|cx| self.poll(cx)) => Err(ServeError::DeadlinePassed),
            output = future => Ok(output),
        }
    }
}
