//! The engine of a model that embeds text: it has no sequences, and nothing stays from one step to the next. Inputs of
//! several requests are computed in one step, as many as its tokens allow, in the order in which they came.

use std::{collections::VecDeque, sync::Arc};

use crossbeam_channel::{Receiver, RecvError, TryRecvError};
use protocol::{
    ids::RequestId,
    message::{Answer, Embeddings, Report, StreamEvent, StreamEventKind},
};
use tracing::{debug_span, error, warn};

use super::{
    Broken, EmbedJob, EngineMessage, EngineStats,
    emit::{Outbox, failed},
    step::FAILED_STEPS,
    step_time::Stage,
};
use crate::{
    model::{EmbeddingModel, ModelError, normalize},
    report_sink::ReportSink,
    requests::RequestTable,
};

/// What the engine needs of a model.
pub trait Embed {
    /// The embedding of each input, in order; see [`EmbeddingModel::embed`].
    ///
    /// # Errors
    /// Those of [`EmbeddingModel::embed`].
    fn embed(&self, inputs: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError>;
}

/// The whole state.
pub struct Embedder<M = EmbeddingModel> {
    model: M,
    /// Most tokens of a step, unless a single input has more.
    step_tokens: usize,
    waiting: VecDeque<Waiting>,
    messages: Receiver<EngineMessage>,
    requests: Arc<RequestTable>,
    outbox: Outbox,
    stats: Arc<EngineStats>,
    draining: bool,
    /// Steps in a row of which the model could compute nothing.
    failed_steps: u32,
}

/// A request, and what has been computed of it.
struct Waiting {
    job: Box<EmbedJob>,
    done: Vec<Vec<f32>>,
}

/// What has come of some inputs.
type Computed = Result<Vec<Vec<f32>>, ModelError>;

impl Embed for EmbeddingModel {
    fn embed(&self, inputs: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        Self::embed(self, inputs)
    }
}

impl Waiting {
    /// What a complete request is told.
    fn answer(&self) -> StreamEventKind {
        let Self { job, done } = self;
        let mut embeddings = Embeddings::default();
        for (input, vector) in job.inputs.iter().zip(done) {
            if !vector.iter().all(|value| value.is_finite()) {
                return failed("the model's numbers are not finite");
            }
            let asked = job.dimensions.map_or(vector.len(), |asked| asked as usize);
            if asked < vector.len() {
                let mut part = vector[..asked].to_vec();
                normalize(&mut part);
                embeddings.push(input.len() as u32, &part);
            } else {
                embeddings.push(input.len() as u32, vector);
            }
        }
        StreamEventKind::Answered(Answer::Embeddings(embeddings))
    }
}

impl<M: Embed> Embedder<M> {
    /// An engine that has nothing to do. It must stay on the thread that loaded the model.
    pub fn new(
        model: M,
        step_tokens: usize,
        messages: Receiver<EngineMessage>,
        requests: Arc<RequestTable>,
        reports: Arc<dyn ReportSink>,
        stats: Arc<EngineStats>,
    ) -> Self {
        Self {
            model,
            step_tokens,
            waiting: VecDeque::new(),
            messages,
            requests,
            outbox: Outbox::new(reports),
            stats,
            draining: false,
            failed_steps: 0,
        }
    }

    /// Serves until it has drained, or nobody can send to it any more.
    ///
    /// # Errors
    /// The model can't compute anything any more: only a new process can.
    pub fn run(mut self) -> Result<(), Broken> {
        self.stats.time.spend(Stage::Idle);
        loop {
            match self.receive() {
                Ok(true) => {}
                Ok(false) | Err(RecvError) => return Ok(()),
            }
            self.stats.time.spend(Stage::Schedule);
            self.step()?;
        }
    }

    /// Handles what has arrived, and waits for something if there is nothing to do. False if it has drained.
    fn receive(&mut self) -> Result<bool, RecvError> {
        loop {
            match self.messages.try_recv() {
                Ok(message) => self.handle(message),
                Err(TryRecvError::Disconnected) => return Err(RecvError),
                Err(TryRecvError::Empty) => {
                    self.forget_cancelled();
                    if !self.waiting.is_empty() {
                        return Ok(true);
                    }
                    if self.draining && self.requests.is_empty() {
                        self.outbox.report(&Report::Drained);
                        return Ok(false);
                    }
                    self.stats.time.rest(Stage::Schedule);
                    let message = self.messages.recv();
                    self.stats.time.spend(Stage::Idle);
                    self.handle(message?);
                }
            }
        }
    }

    fn handle(&mut self, message: EngineMessage) {
        match message {
            EngineMessage::Embed(job) => self.waiting.push_back(Waiting { job, done: Vec::new() }),
            // Preparation has refused it.
            EngineMessage::Sequence(sequence) => {
                self.end(sequence.id, failed("a model that embeds text was asked to generate"));
                self.outbox.send();
            }
            EngineMessage::Drain => self.draining = true,
            EngineMessage::Wake => {}
        }
    }

    fn forget_cancelled(&mut self) {
        let requests = &self.requests;
        self.waiting.retain(|Waiting { job, .. }| {
            let goes_on = !job.request.is_cancelled();
            if !goes_on {
                requests.end(job.id);
            }
            goes_on
        });
    }

    /// Computes the next inputs, and answers the requests of which they were the last.
    fn step(&mut self) -> Result<(), Broken> {
        let counts = self.plan();
        self.stats.publish_embedding(counts.len(), self.waiting.len() - counts.len());
        let span = debug_span!("step", rows = counts.iter().sum::<usize>()).entered();
        let computed = self.compute(&counts);
        drop(span);
        self.stats.time.spend_on_model(std::time::Duration::ZERO);
        let any = !computed.is_empty();
        let mut failures = Vec::new();
        for (index, result) in computed {
            match result {
                Ok(embeddings) => self.waiting[index].done.extend(embeddings),
                Err(error) => failures.push((index, error)),
            }
        }
        let nothing = any && failures.len() == counts.len();
        for (index, error) in failures.into_iter().rev() {
            if let Some(Waiting { job, .. }) = self.waiting.remove(index) {
                error!(id = job.id.0, %error, "a request's inputs could not be embedded");
                self.end(job.id, failed(format!("the model failed: {error}")));
            }
        }
        self.answer();
        self.stats.count_step();
        self.stats.publish_embedding(self.waiting.len(), 0);
        self.outbox.send();
        self.stats.time.spend(Stage::Emit);
        self.check_device(nothing)
    }

    /// How many inputs of each of the first requests are computed in this step.
    fn plan(&self) -> Vec<usize> {
        let (mut counts, mut tokens) = (Vec::new(), 0);
        for Waiting { job, done } in &self.waiting {
            let mut count = 0;
            for input in &job.inputs[done.len()..] {
                if tokens > 0 && tokens + input.len() > self.step_tokens {
                    break;
                }
                tokens += input.len();
                count += 1;
            }
            if count == 0 {
                break;
            }
            counts.push(count);
            if done.len() + count < job.inputs.len() {
                break;
            }
        }
        counts
    }

    /// Of each request what has come of so many of its inputs: all at once unless that fails.
    fn compute(&self, counts: &[usize]) -> Vec<(usize, Computed)> {
        let inputs_of = |index: usize| {
            let Waiting { job, done } = &self.waiting[index];
            job.inputs[done.len()..][..counts[index]].iter().map(Vec::as_slice).collect::<Vec<_>>()
        };
        let all: Vec<&[u32]> = (0..counts.len()).flat_map(inputs_of).collect();
        let together = self.model.embed(&all);
        match together {
            Ok(embeddings) => {
                let mut embeddings = embeddings.into_iter();
                let part =
                    |(index, count): (usize, &usize)| (index, Ok(embeddings.by_ref().take(*count).collect()));
                counts.iter().enumerate().map(part).collect()
            }
            Err(error) if counts.len() == 1 => vec![(0, Err(error))],
            Err(error) => {
                warn!(%error, requests = counts.len(), "a step failed; its requests are tried one by one");
                (0..counts.len()).map(|index| (index, self.model.embed(&inputs_of(index)))).collect()
            }
        }
    }

    /// Answers what is complete.
    fn answer(&mut self) {
        let is_complete = |waiting: &Waiting| waiting.done.len() == waiting.job.inputs.len();
        while self.waiting.front().is_some_and(is_complete) {
            let Some(waiting) = self.waiting.pop_front() else { return };
            self.end(waiting.job.id, waiting.answer());
        }
    }

    /// Sends the only event of a request, and forgets it.
    fn end(&mut self, id: RequestId, kind: StreamEventKind) {
        self.outbox.push(StreamEvent { id, kind });
        self.requests.end(id);
    }

    /// After steps of which nothing could be computed: whether anything can.
    fn check_device(&mut self, failed: bool) -> Result<(), Broken> {
        self.failed_steps = if failed { self.failed_steps + 1 } else { 0 };
        if self.failed_steps < FAILED_STEPS {
            return Ok(());
        }
        self.failed_steps = 0;
        self.model.embed(&[&[0]]).map(drop).map_err(|source| Broken { source })
    }
}

#[cfg(test)]
mod tests;
