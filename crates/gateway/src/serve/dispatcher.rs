//! The way from a request to its generation: admit, route, open, and wait until the worker has accepted the prompt.

use std::{sync::Arc, time::Instant};

use tracing::{Instrument, debug_span};

use super::{
    admission::{Admission, Ask},
    deadline::Deadline,
    error::ServeError,
    estimate,
    generation::Generation,
    metrics::ServeMetrics,
    migrate::{MigratingStream, OpenLimits, Opener},
    request::GenerateRequest,
};
use crate::fleet::ModelRegistry;

/// Brings requests to workers. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    admission: Admission,
    registry: Arc<ModelRegistry>,
    opener: Arc<Opener>,
}

impl Dispatcher {
    /// Sends what `admission` lets in to the workers in `registry`.
    pub fn new(
        admission: Admission,
        registry: Arc<ModelRegistry>,
        limits: OpenLimits,
        metrics: ServeMetrics,
    ) -> Self {
        let opener = Arc::new(Opener::new(Arc::clone(&registry), limits, metrics));
        Self { admission, registry, opener }
    }

    /// Waits for a place, then for a worker, and until that has accepted the prompt. `arrived` is when the client's
    /// request came. Dropping the future gives the place up and cancels the request.
    ///
    /// # Errors
    /// If no worker will ever serve the model, which is found before the wait for a place; if there is no place, or no
    /// worker in time; if the request's deadline passes; or if the worker refuses the request.
    pub async fn generate(
        &self,
        request: GenerateRequest,
        arrived: Instant,
    ) -> Result<Generation, ServeError> {
        // An unknown model need not wait for a place.
        let name = self.registry.resolve(&request.model)?;
        let ask = Ask {
            model: name,
            caller: request.caller.clone(),
            priority: request.priority,
            tokens: estimate::tokens(&request),
            deadline: request.deadline,
        };
        let permit = self.admission.admit(ask).instrument(debug_span!("admit")).await?;
        // Workers may have come or gone during the wait, so one is picked only now.
        let opening = MigratingStream::open(&self.opener, request, arrived, self.admission.wait_timeout());
        let events = Deadline::new(permit.deadline()).bound(opening).await??;
        Generation::prepared(permit, events).await
    }
}

#[cfg(test)]
mod tests;
