//! The way from a request to its generation: admit, route, open, and wait until the worker has accepted the prompt.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use protocol::ids::RequestId;
use tracing::{Instrument, debug_span};

use super::{
    admission::Admission, error::ServeError, generation::Generation, metrics::ServeMetrics,
    request::GenerateRequest,
};
use crate::{fleet::ModelRegistry, trace::REQUEST};

/// Brings requests to workers. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    admission: Admission,
    registry: Arc<ModelRegistry>,
    /// Chunks that a worker may send before any was read.
    credit_chunks: u32,
    metrics: ServeMetrics,
    last_id: Arc<AtomicU64>,
}

impl Dispatcher {
    /// Sends what `admission` lets in to the workers in `registry`. `credit_chunks` is the number of chunks that a
    /// worker may send before any was read.
    pub fn new(
        admission: Admission,
        registry: Arc<ModelRegistry>,
        credit_chunks: u32,
        metrics: ServeMetrics,
    ) -> Self {
        Self { admission, registry, credit_chunks, metrics, last_id: Arc::default() }
    }

    /// Waits for a place, picks a worker, and waits until it has accepted the prompt. `arrived` is when the client's
    /// request came. Dropping the future gives the place up and cancels the request.
    ///
    /// # Errors
    /// If the model can't be reached now, which is found before the wait for a place; if there is no place; or if the
    /// worker refuses the request.
    pub async fn generate(
        &self,
        request: GenerateRequest,
        arrived: Instant,
    ) -> Result<Generation, ServeError> {
        // An unknown model, or one without workers, need not wait for a place.
        let name = self.registry.resolve(&request.model)?;
        let mut unfinished = self.metrics.begin(&name, arrived);
        match self.open(&name, request, arrived).await {
            Ok(generation) => Ok(generation.measured(unfinished)),
            Err(error) => {
                unfinished.fail();
                Err(error)
            }
        }
    }

    /// The rest of [`Dispatcher::generate`], for the model with this name.
    async fn open(
        &self,
        name: &str,
        request: GenerateRequest,
        arrived: Instant,
    ) -> Result<Generation, ServeError> {
        let admit = debug_span!(target: REQUEST, "admit");
        let permit = self.admission.admit(name).instrument(admit).await?;
        // Workers may have come or gone during the wait, so one is picked only now.
        let route = debug_span!(target: REQUEST, "route").in_scope(|| self.registry.route(&request.model))?;
        let message = request.into_message(self.next_id(), self.credit_chunks);
        let events = route.link.open(message, arrived)?;
        Generation::prepared(permit, events, route.info.digest).await
    }

    fn next_id(&self) -> RequestId {
        RequestId(self.last_id.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

#[cfg(test)]
mod tests;
