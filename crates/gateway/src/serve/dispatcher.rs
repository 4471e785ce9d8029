//! The way from a request to its generation: provide the model, admit, route, open, and wait until the worker has
//! accepted the prompt.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use protocol::ids::RequestId;
use tracing::{Instrument, debug_span};

use super::{admission::Admission, error::ServeError, generation::Generation, request::GenerateRequest};
use crate::fleet::{ModelRegistry, Models, RouteRequest};

/// Brings requests to workers. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    admission: Admission,
    models: Models,
    registry: Arc<ModelRegistry>,
    /// Chunks that a worker may send before any was read.
    credit_chunks: u32,
    last_id: Arc<AtomicU64>,
}

impl Dispatcher {
    /// Sends what `admission` lets in to the workers in `registry`, into which `models` loads what is asked for.
    /// `credit_chunks` is the number of chunks that a worker may send before any was read.
    pub fn new(
        admission: Admission,
        models: Models,
        registry: Arc<ModelRegistry>,
        credit_chunks: u32,
    ) -> Self {
        Self { admission, models, registry, credit_chunks, last_id: Arc::default() }
    }

    /// Waits for the model if it has to be loaded, and for a place, picks a worker, and waits until it has accepted the
    /// prompt. `arrived` is when the client's request came. Dropping the future gives the place up and cancels the
    /// request.
    ///
    /// # Errors
    /// If the model can't be loaded or reached now, which is found before the wait for a place; if there is no place;
    /// or if the worker refuses the request.
    pub async fn generate(
        &self,
        request: GenerateRequest,
        arrived: Instant,
    ) -> Result<Generation, ServeError> {
        let model = self.models.provide(&request.model).instrument(debug_span!("provide")).await?;
        // A model without workers need not wait for a place.
        self.registry.resolve(&model)?;
        let permit = self.admission.admit(&model).instrument(debug_span!("admit")).await?;
        // Workers may have come or gone during the wait, so one is picked only now.
        let wanted = RouteRequest::of(&request.prompt);
        let route = debug_span!("route").in_scope(|| self.registry.route(&model, wanted))?;
        let message = request.into_message(self.next_id(), self.credit_chunks);
        let events = route.link.open(message, arrived)?;
        Generation::prepared(model, permit, events, route.info.digest).await
    }

    fn next_id(&self) -> RequestId {
        RequestId(self.last_id.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

#[cfg(test)]
mod tests;
