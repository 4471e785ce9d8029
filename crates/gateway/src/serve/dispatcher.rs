//! The way from a request to its generation: provide the model, admit, route, open, and wait until the worker has
//! accepted the prompt.

use std::{sync::Arc, time::Instant};

use futures_util::future::try_join_all;
use tracing::{Instrument, debug_span};

use super::{
    admission::{Admission, Ask, Permit},
    choices::Choices,
    deadline::Deadline,
    error::{Failure, FailureKind, ServeError},
    estimate,
    generation::Generation,
    metrics::{ServeMetrics, Unfinished},
    migrate::{MigratingStream, OpenLimits, Opener},
    request::GenerateRequest,
};
use crate::{
    fleet::{InUse, ModelRegistry, Models, Target},
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

    /// Waits for the model if it has to be loaded, for places, for workers, and until they have accepted the prompt. The
    /// request gets `count` choices, at least one, each with its own seed; either all of them are admitted or none.
    /// `arrived` is when the client's request came. Dropping the future gives up the places and cancels the request.
    ///
    /// # Errors
    /// If the model can't be loaded, or no worker will ever serve it, which is found before the wait for a place; if
    /// there is no place, or no worker in time; if the request's deadline passes; or if a worker refuses the request.
    pub async fn generate(
        &self,
        mut request: GenerateRequest,
        count: usize,
        arrived: Instant,
    ) -> Result<Choices, ServeError> {
        let ends = request.deadline;
        let mut deadline = Deadline::new(ends);
        let providing = async {
            let Target { model, adapter } = self.models.target(&request.model).await?;
            self.models.provide(&model).await.map(|model| (model, adapter))
        };
        let providing = providing.instrument(debug_span!(target: REQUEST, "provide"));
        let (model, adapter) = deadline.bound(providing).await??;
        request.adapter = adapter;
        // A model that takes no requests need not wait for a place.
        self.registry.resolve(&model)?;
        let adapter = request.adapter.as_ref().map(|adapter| adapter.name.as_str());
        let unfinished = (0..count).map(|_| self.metrics.begin(&model, adapter, arrived)).collect();
        let attempts = Attempts { unfinished, deadline: ends };
        let generations = match self.open_all(&model, request, count, arrived).await {
            Ok(generations) => generations,
            Err(error) => {
                attempts.fail();
                return Err(error);
            }
        };
        let measured = generations.into_iter().zip(attempts.into_unfinished());
        Ok(Choices::new(measured.map(|(generation, unfinished)| generation.measured(unfinished)).collect()))
    }

    /// The rest of [`Dispatcher::generate`], for this model.
    async fn open_all(
        &self,
        model: &InUse,
        request: GenerateRequest,
        count: usize,
        arrived: Instant,
    ) -> Result<Vec<Generation>, ServeError> {
        let max = self.admission.max_streams();
        if count > max {
            return Err(too_many(count, max).into());
        }
        let ask = Ask {
            model: model.to_string(),
            caller: request.caller.clone(),
            priority: request.priority,
            tokens: estimate::tokens(&request),
            streams: count,
            deadline: request.deadline,
        };
        let admit = debug_span!(target: REQUEST, "admit");
        let mut permit = self.admission.admit(ask).instrument(admit).await?;
        let others = permit.take_others();
        let permits = std::iter::once(permit).chain(others).zip(0..);
        let opening = permits.map(|(permit, index)| self.open(model, request.choice(index), arrived, permit));
        try_join_all(opening).await
    }

    /// Opens one choice, for which there is a place.
    async fn open(
        &self,
        model: &InUse,
        request: GenerateRequest,
        arrived: Instant,
        permit: Permit,
    ) -> Result<Generation, ServeError> {
        let mut deadline = Deadline::new(request.deadline);
        // Workers may have come or gone during the wait, so one is picked only now.
        let longest = self.admission.wait_timeout();
        let opening = MigratingStream::open(&self.opener, model.again(), request, arrived, longest);
        let events = deadline.bound(opening).await??;
        Generation::prepared(permit, events).await
    }
}

/// Choices whose end is still to come.
struct Attempts {
    unfinished: Vec<Unfinished>,
    /// The request's.
    deadline: Option<Instant>,
}

impl Attempts {
    /// None of them came to be.
    fn fail(mut self) {
        self.unfinished.iter_mut().for_each(Unfinished::fail);
    }

    /// All of them did.
    fn into_unfinished(mut self) -> Vec<Unfinished> {
        std::mem::take(&mut self.unfinished)
    }
}

impl Drop for Attempts {
    fn drop(&mut self) {
        // Whoever drops them at the deadline tells the client so: it has not gone away.
        if self.deadline.is_some_and(|deadline| tokio::time::Instant::now().into_std() >= deadline) {
            self.unfinished.iter_mut().for_each(Unfinished::fail);
        }
    }
}

fn too_many(count: usize, max: usize) -> Failure {
    let message =
        format!("the request is for {count} choices, but this server runs at most {max} streams of a model");
    Failure { kind: FailureKind::InvalidRequest, param: Some("n".into()), message }
}

#[cfg(test)]
mod tests;
