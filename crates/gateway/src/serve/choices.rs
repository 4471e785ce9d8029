//! The generations of one request: its choices, which are admitted together and read as one.

use std::task::{Context, Poll};

use super::{
    error::ServeError,
    event::{Output, OutputEvent},
    generation::Generation,
};

/// The generations of one request, each a choice. Yields their events as they come, and ends when all have ended or after
/// one error. Dropping it cancels those that are left.
#[derive(Debug)]
pub struct Choices {
    /// By index; `None` after its end, so that its place is free.
    generations: Vec<Option<Generation>>,
    /// The one whose turn it is.
    next: usize,
}

impl Choices {
    pub(super) fn new(generations: Vec<Generation>) -> Self {
        Self { generations: generations.into_iter().map(Some).collect(), next: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.generations.len()
    }

    /// Whether all have ended.
    pub fn is_empty(&self) -> bool {
        self.generations.iter().all(Option::is_none)
    }

    /// Digest of the model that generates, in hex; empty if all have ended.
    pub fn digest(&self) -> &str {
        self.generations.iter().flatten().next().map_or("", Generation::digest)
    }

    /// The next event and its choice; `None` after the last one. Reading is what lets workers go on. Each choice has its
    /// turn.
    pub fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<(u32, OutputEvent), ServeError>>> {
        let count = self.generations.len();
        let mut ended = true;
        for index in (0..count).map(|n| (self.next + n) % count) {
            let Some(slot) = self.generations.get_mut(index) else { continue };
            let Some(generation) = slot else { continue };
            ended = false;
            let Poll::Ready(event) = generation.poll_next(cx) else { continue };
            self.next = index + 1;
            match event {
                Some(Ok(event)) => {
                    if let OutputEvent::Finish { .. } = event {
                        *slot = None;
                    }
                    return Poll::Ready(Some(Ok((index as u32, event))));
                }
                failed => {
                    // The answer can't be whole any more.
                    self.generations.iter_mut().for_each(|slot| *slot = None);
                    let error = failed.and_then(Result::err).unwrap_or(ServeError::Internal);
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        if ended { Poll::Ready(None) } else { Poll::Pending }
    }

    /// They end with an error that the client is told elsewhere.
    pub fn fail(&mut self) {
        self.generations.iter_mut().flatten().for_each(Generation::fail);
    }

    /// Everything up to the end, by choice.
    ///
    /// # Errors
    /// That of the first choice that fails.
    pub async fn collect(mut self) -> Result<Vec<Output>, ServeError> {
        let mut outputs: Vec<Output> = (0..self.len()).map(|_| Output::default()).collect();
        while let Some(event) = std::future::poll_fn(|cx| self.poll_next(cx)).await {
            let (index, event) = event?;
            let Some(output) = outputs.get_mut(index as usize) else { return Err(ServeError::Internal) };
            output.add(event);
        }
        Ok(outputs)
    }
}

impl From<Generation> for Choices {
    fn from(generation: Generation) -> Self {
        Self::new(vec![generation])
    }
}

#[cfg(test)]
mod tests;
