//! The way from an operation to its answer: wait for a place, route, ask, and ask another worker if the first one dies.
//!
//! ```text
//! OperationRequest ─ enter ─► Place ─ route ─► Link ─ operate ─► Answered
//!                                       ▲                 │ the worker is gone, or leaves
//!                                       └──── once ───────┘
//! ```
//!
//! An operation changes nothing, so it may be done twice. It has no stream: one answer, or one error.

mod gate;
mod metrics;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::message::ModelInfo;
pub use protocol::message::{
    Answer, EmbedInput, Embeddings, MAX_EMBED_INPUTS, OperationKind, PieceForm, Pieces, TokenizeInput,
    Truncation,
};
use tokio::time::timeout;
use tracing::{Instrument, debug_span, error};

use self::gate::Gates;
pub use self::metrics::OperationMetrics;
pub use super::rejection::OperationRejection;
use super::{
    admission::{Admission, Rejection},
    deadline::Deadline,
    error::{FailureKind, ServeError},
};
use crate::{
    config::Operations,
    fleet::{ModelRegistry, Models, Route, RouteError},
};

/// What a client asks a model's tokenizer or template for.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationRequest {
    /// The model's name or digest, as the client wrote it; `None`: the only one that is served.
    pub model: Option<String>,
    /// What is asked for.
    pub kind: OperationKind,
    /// It is not held for others to share its frame to the worker.
    pub urgent: bool,
    /// When an answer comes too late.
    pub deadline: Option<Instant>,
}

/// An answer, and who gave it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// The answer: of the variant that the operation's kind asks for.
    pub answer: Answer,
    /// The model.
    pub model: ModelInfo,
}

/// Brings operations to workers. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Operator {
    admission: Admission,
    models: Models,
    registry: Arc<ModelRegistry>,
    gates: Arc<Gates>,
    /// Longest wait for a worker to be ready.
    wait_timeout: Duration,
    metrics: OperationMetrics,
}

impl OperationRequest {
    /// About the memory that it takes until it is answered, in bytes: here, and encoded for the worker.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.model.as_ref().map_or(0, String::len) + 2 * self.kind.approximate_bytes()
    }
}

impl Operator {
    /// Over the workers in `registry`, into which `models` loads what is asked for. Nothing is taken once `admission` is
    /// closed.
    pub fn new(
        admission: Admission,
        models: Models,
        registry: Arc<ModelRegistry>,
        settings: Operations,
        metrics: OperationMetrics,
    ) -> Self {
        let gates = Arc::new(Gates::new(settings, metrics.clone()));
        Self { admission, models, registry, gates, wait_timeout: settings.wait_timeout, metrics }
    }

    /// Waits for the model if it has to be loaded, for a place and for a worker that is ready, and asks it; a second one
    /// if the first is lost before it answers. Dropping the future cancels the operation.
    ///
    /// # Errors
    /// If the model can't be reached, if there is no place, if the worker can't do it, or if the deadline passes.
    pub async fn operate(&self, request: OperationRequest) -> Result<Answered, ServeError> {
        let (began, name) = (Instant::now(), request.kind.name());
        let span = debug_span!("operate", kind = name);
        let mut deadline = Deadline::new(request.deadline);
        let answered = deadline.bound(self.enter_and_ask(request).instrument(span)).await;
        let result = answered.flatten();
        self.metrics.count(name, result.as_ref().err(), began.elapsed());
        result
    }

    async fn enter_and_ask(&self, request: OperationRequest) -> Result<Answered, ServeError> {
        if self.admission.is_closed() {
            return Err(Rejection::ShuttingDown.into());
        }
        let OperationRequest { model, kind, urgent, deadline: _ } = request;
        let model = match model {
            Some(model) => model,
            None => self.registry.only_model()?,
        };
        // What operations need, an adapter has of its base.
        let model = self.models.target(&model).await?.model;
        let model = self.models.provide(&model).await?;
        // A model that takes no requests need not wait for a place.
        self.registry.resolve(&model)?;
        let workers = || self.registry.model(&model).map_or(1, |status| status.workers);
        let _place = self.gates.enter(&model, workers).await?;
        self.ask(&model, &kind, urgent).await
    }

    /// Waits until a worker is ready, if none is.
    async fn route(&self, model: &str) -> Result<Route, RouteError> {
        let routed = timeout(self.wait_timeout, async {
            loop {
                self.registry.usable(model).await?;
                // The worker may have gone since then, so this may take another turn.
                match self.registry.route_operation(model) {
                    Err(RouteError::NoWorker { .. }) => tokio::task::yield_now().await,
                    routed => return routed,
                }
            }
        });
        routed.await.unwrap_or_else(|_elapsed| Err(RouteError::NoWorker { model: model.to_owned() }))
    }

    async fn ask(&self, model: &str, kind: &OperationKind, urgent: bool) -> Result<Answered, ServeError> {
        let mut may_retry = true;
        loop {
            let route = self.route(model).await?;
            match route.link.operate(kind, urgent).await {
                Ok(answer) if is_answer_of(kind, &answer) => {
                    return Ok(Answered { answer, model: route.info });
                }
                Ok(_) => {
                    error!(kind = kind.name(), "a worker answered an operation with a value of another kind");
                    return Err(ServeError::Internal);
                }
                Err(failure) if failure.kind == FailureKind::WorkerLost && may_retry => {
                    self.metrics.count_retry();
                    may_retry = false;
                }
                Err(failure) => return Err(failure.into()),
            }
        }
    }
}

fn is_answer_of(kind: &OperationKind, answer: &Answer) -> bool {
    match kind {
        OperationKind::Tokenize(_) => matches!(answer, Answer::Tokens(_)),
        OperationKind::Count(_) => matches!(answer, Answer::Count(_)),
        OperationKind::Detokenize { .. } | OperationKind::Render { .. } => matches!(answer, Answer::Text(_)),
        OperationKind::CheckDraft { .. } => matches!(answer, Answer::DraftCheck { .. }),
        OperationKind::Pieces { .. } => matches!(answer, Answer::Pieces(_)),
        OperationKind::Embed(input) => {
            matches!(answer, Answer::Embeddings(embeddings) if embeddings.len() == input.inputs.len())
        }
    }
}
