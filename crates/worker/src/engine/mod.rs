//! Stage 9, step: the one thread that owns MLX. Each turn handles what arrived, schedules a step, runs the model once
//! over all planned rows, samples tokens, and emits everything that came of it in one report.
//!
//! ```text
//! mod          messages, requests' handles, turn by turn
//! step         schedule ─▶ run ─▶ sample ─▶ emit; a row that fails fails alone
//! ahead        steps that are launched before the tokens of the one before are read
//! sequence     one generation: its tokens, its sampler, its emitter
//! forward      what is needed of a model
//! kept         prefixes of sequences that later ones go on behind
//! on_disk      what of them is kept on disk, or comes from there
//! speculate    drafts of sequences
//! draft_model  a second model that guesses them
//! drafting     what that has of a sequence
//! embed_job    texts to embed
//! embedder     the engine of a model that embeds text, which has no sequences
//! emit         from a token to what its client sees of it
//! stats        what the heartbeat says about all this; step_time, where the time goes
//! ```

mod ahead;
mod draft_model;
mod drafting;
mod embed_job;
mod embedder;
pub mod emit;
mod forward;
mod kept;
mod on_disk;
mod sequence;
mod speculate;
mod stats;
mod step;
mod step_time;

use std::{collections::HashMap, sync::Arc};

use ahead::Flight;
use crossbeam_channel::{Receiver, RecvError, TryRecvError};
pub use draft_model::{DraftModel, DraftSize};
use drafting::Drafting;
pub use embed_job::EmbedJob;
pub use embedder::{Embed, Embedder};
use emit::{Outbox, failed};
pub use forward::Forward;
use kept::KeptPrefixes;
use on_disk::OnDisk;
use protocol::message::{DeltaTokens, FinishReason, Report, StreamEvent, StreamEventKind, Usage};
pub use sequence::{EosTokens, OutputError, ResumeError, Sequence};
pub use stats::EngineStats;
pub use step::Broken;
use step_time::Stage;

use crate::{
    cache::NodeId,
    model::Model,
    prefix_store::PrefixStore,
    report_sink::ReportSink,
    requests::RequestTable,
    sample::SampleThreads,
    schedule::{Limits, Scheduler, SequenceId},
    speculate::{Counts, Speculation},
};

/// What reaches the engine from other threads.
pub enum EngineMessage {
    /// A prepared request.
    Sequence(Box<Sequence>),
    /// Texts to embed.
    Embed(Box<EmbedJob>),
    /// A request was cancelled, was given credit, or ended before it became a sequence: look at all of them again.
    Wake,
    /// Finish everything, then stop.
    Drain,
}

const NO_EMBEDDINGS: &str = "a model that generates text was asked for embeddings";

/// The engine's whole state.
pub struct Engine<M: Forward = Model> {
    model: M,
    draft_model: Option<DraftModel<M>>,
    limits: Limits,
    scheduler: Scheduler,
    slots: HashMap<SequenceId, Slot<M::Kv>>,
    kept: KeptPrefixes<M::Kv>,
    messages: Receiver<EngineMessage>,
    requests: Arc<RequestTable>,
    sample_threads: SampleThreads,
    /// Tokens of the step, between sampling and emitting.
    sampled: Vec<(SequenceId, DeltaTokens)>,
    /// The step that the device computes and that nobody has waited for.
    flight: Option<Flight<M::Launched>>,
    outbox: Outbox,
    stats: Arc<EngineStats>,
    draining: bool,
    /// Steps in a row of which the model could compute nothing.
    failed_steps: u32,
}

/// A sequence, and what the model keeps of it.
struct Slot<K> {
    sequence: Box<Sequence>,
    /// Keys and values of a prefix of the tokens, while some are held.
    kv: Option<K>,
    /// The prefix that it uses.
    held: Option<NodeId>,
    /// What of it was looked for on disk, and kept there.
    disk: OnDisk,
    /// What is guessed of its next tokens.
    speculation: Speculation,
    /// What the draft model has of it.
    drafting: Drafting<K>,
    /// How many tokens it need not compute when it began.
    first_computed: usize,
    /// It has taken part in a step.
    started: bool,
    /// Its row in what is being put together: of the step, or of its logits.
    row: Option<usize>,
}

/// What became of one turn of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It ran a step.
    Stepped,
    /// Nothing can go on before another message.
    Idle,
    /// It has drained, or nobody can send to it any more.
    Ended,
}

impl<M: Forward> Engine<M> {
    /// An engine without sequences. It must stay on the thread that loaded the model.
    pub fn new(
        model: M,
        limits: Limits,
        messages: Receiver<EngineMessage>,
        requests: Arc<RequestTable>,
        reports: Arc<dyn ReportSink>,
        stats: Arc<EngineStats>,
    ) -> Self {
        stats.set_limits(limits);
        stats.set_progress(model.progress());
        Self {
            kept: KeptPrefixes::new(&model, limits.keep_prefixes),
            sample_threads: SampleThreads::start(model.threads()),
            model,
            draft_model: None,
            limits,
            scheduler: Scheduler::new(limits),
            slots: HashMap::new(),
            messages,
            requests,
            sampled: Vec::new(),
            flight: None,
            outbox: Outbox::new(reports),
            stats,
            draining: false,
            failed_steps: 0,
        }
    }

    /// The same, with prefixes on disk, too.
    #[must_use]
    pub fn with_prefix_store(mut self, store: PrefixStore) -> Self {
        self.stats.set_disk(store.usage());
        self.kept.set_store(store);
        self
    }

    /// The same, with drafts of another model, which must stay on the same thread.
    #[must_use]
    pub fn with_draft_model(self, model: DraftModel<M>) -> Self {
        Self { draft_model: Some(model), ..self }
    }

    /// Serves until it has drained, or nobody can send to it any more.
    ///
    /// # Errors
    /// The model can't compute anything any more: only a new process can.
    pub fn run(mut self) -> Result<(), Broken> {
        self.stats.time.spend(Stage::Idle);
        loop {
            match self.turn()? {
                Turn::Stepped => {}
                Turn::Idle => match self.wait() {
                    Ok(message) => self.handle(message),
                    Err(RecvError) => return Ok(()),
                },
                Turn::Ended => return Ok(()),
            }
        }
    }

    /// Waits for a request, a credit, a cancellation.
    fn wait(&self) -> Result<EngineMessage, RecvError> {
        self.stats.time.rest(Stage::Schedule);
        let message = self.messages.recv();
        self.stats.time.spend(Stage::Idle);
        message
    }

    /// Handles what has arrived and runs one step, if there is anything to run.
    fn turn(&mut self) -> Result<Turn, Broken> {
        if self.handle_all().is_err() {
            return Ok(Turn::Ended);
        }
        self.poll_controls();
        let stepped = self.step()?;
        self.stats.publish_held(self.scheduler.held_tokens(), self.kept.held_tokens());
        if stepped {
            return Ok(Turn::Stepped);
        }
        if self.draining && self.requests.is_empty() {
            self.outbox.report(&Report::Drained);
            return Ok(Turn::Ended);
        }
        Ok(Turn::Idle)
    }

    fn handle_all(&mut self) -> Result<(), RecvError> {
        loop {
            match self.messages.try_recv() {
                Ok(message) => self.handle(message),
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(RecvError),
            }
        }
    }

    fn handle(&mut self, message: EngineMessage) {
        match message {
            EngineMessage::Sequence(sequence) => self.add(sequence),
            // Preparation has refused it.
            EngineMessage::Embed(job) => {
                self.outbox.push(StreamEvent { id: job.id, kind: failed(NO_EMBEDDINGS.to_owned()) });
                self.outbox.send();
                self.requests.end(job.id);
            }
            EngineMessage::Drain => self.draining = true,
            EngineMessage::Wake => {
                // Perhaps what a sequence waits for has come from disk.
                if self.slots.values().any(|slot| slot.disk.reaches().is_some()) {
                    self.scheduler.look_again();
                }
            }
        }
    }

    fn add(&mut self, mut sequence: Box<Sequence>) {
        sequence.spans.schedule();
        let id = self.scheduler.add(sequence.tokens.len(), sequence.arrived_micros);
        let ended = sequence.ended;
        self.slots.insert(
            id,
            Slot {
                sequence,
                kv: None,
                held: None,
                disk: OnDisk::default(),
                speculation: Speculation::default(),
                drafting: Drafting::default(),
                first_computed: 0,
                started: false,
                row: None,
            },
        );
        // What was generated elsewhere was all there is; only its end was not said.
        if let Some(reason) = ended {
            self.finish(id, reason);
            self.outbox.send();
        }
    }

    /// Removes what was cancelled and pauses what has no credit.
    fn poll_controls(&mut self) {
        let mut cancelled = Vec::new();
        for (&id, Slot { sequence, .. }) in &self.slots {
            if sequence.request.is_cancelled() {
                cancelled.push(id);
            } else {
                self.scheduler.set_paused(id, !sequence.request.has_credit());
            }
        }
        for id in cancelled {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: SequenceId) {
        let computed = self.scheduler.computed(id);
        self.scheduler.remove(id);
        if let Some(mut slot) = self.slots.remove(&id) {
            // Of a step's tokens, those behind the end were computed, too. What was not waited for could fail.
            let computed = computed.min(slot.sequence.tokens.len());
            let certain = self.flight.as_ref().and_then(|flight| flight.row(id)).map(|row| row.tokens.start);
            let computed = certain.map_or(computed, |certain| computed.min(certain));
            self.draft_model.iter_mut().for_each(|model| model.keep(&slot));
            self.kept.take_over(&mut slot, computed, &self.model);
            self.requests.end(slot.sequence.id);
        }
    }

    fn finish(&mut self, id: SequenceId, reason: FinishReason) {
        let Some(usage) = self.slots.get(&id).map(Slot::usage) else { return };
        self.end(id, StreamEventKind::Finished { reason, usage });
    }

    /// Sends a stream's terminal event, and forgets it.
    fn end(&mut self, id: SequenceId, kind: StreamEventKind) {
        if let Some(slot) = self.slots.get(&id) {
            self.outbox.push(StreamEvent { id: slot.sequence.id, kind });
        }
        self.remove(id);
    }
}

impl<K> Slot<K> {
    /// What the sequence has used so far.
    fn usage(&self) -> Usage {
        let usage = self.sequence.usage();
        let cached = self.first_computed as u32;
        let Counts { drafted, accepted } = self.speculation.counts();
        Usage {
            cached_tokens: cached.min(usage.prompt_tokens),
            drafted_tokens: drafted,
            accepted_tokens: accepted,
            ..usage
        }
    }
}

#[cfg(test)]
mod tests;
