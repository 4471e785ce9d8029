//! The way from a request to its generation: provide the model, admit, route, open, and wait until the worker has
//! accepted the prompt.

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
use crate::{
    fleet::{InUse, ModelRegistry, Models},
    trace::REQUEST,
};

/// Brings requests to workers. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    admission: Admission,
    models: Models,
    registry: Arc<ModelRegistry>,
    opener: Arc<Opener>,
    metrics: ServeMetrics,
}

impl Dispatcher {
    /// Sends what `admission` lets in to the workers in `registry`, into which `models` loads what is asked for.
    pub fn new(
        admission: Admission,
        models: Models,
        registry: Arc<ModelRegistry>,
        limits: OpenLimits,
        metrics: ServeMetrics,
    ) -> Self {
        let opener = Arc::new(Opener::new(Arc::clone(&registry), limits, metrics.clone()));
        Self { admission, models, registry, opener, metrics }
    }

    /// Waits for the model if it has to be loaded, for a place, for a worker, and until that has accepted the prompt.
    /// `arrived` is when the client's request came. Dropping the future gives the place up and cancels the request.
    ///
    /// # Errors
    /// If the model can't be loaded, or no worker will ever serve it, which is found before the wait for a place; if
    /// there is no place, or no worker in time; if the request's deadline passes; or if the worker refuses the request.
    pub async fn generate(
        &self,
        request: GenerateRequest,
        arrived: Instant,
    ) -> Result<Generation, ServeError> {
        let mut deadline = Deadline::new(request.deadline);
        let providing = self.models.provide(&request.model);
        let providing = providing.instrument(debug_span!(target: REQUEST, "provide"));
        let model = deadline.bound(providing).await??;
        // A model that takes no requests need not wait for a place.
        self.registry.resolve(&model)?;
        let mut unfinished = self.metrics.begin(&model, arrived);
        match self.open(model, request, arrived, deadline).await {
            Ok(generation) => Ok(generation.measured(unfinished)),
            Err(error) => {
                unfinished.fail();
                Err(error)
            }
        }
    }

    /// The rest of [`Dispatcher::generate`], for this model.
    async fn open(
        &self,
        model: InUse,
        request: GenerateRequest,
        arrived: Instant,
        mut deadline: Deadline,
    ) -> Result<Generation, ServeError> {
        let ask = Ask {
            model: model.to_string(),
            caller: request.caller.clone(),
            priority: request.priority,
            tokens: estimate::tokens(&request),
            deadline: request.deadline,
        };
        let admit = debug_span!(target: REQUEST, "admit");
        let permit = self.admission.admit(ask).instrument(admit).await?;
        // Workers may have come or gone during the wait, so one is picked only now.
        let longest = self.admission.wait_timeout();
        let opening = MigratingStream::open(&self.opener, model, request, arrived, longest);
        let events = deadline.bound(opening).await??;
        Generation::prepared(permit, events).await
    }
}

#[cfg(test)]
mod tests;
