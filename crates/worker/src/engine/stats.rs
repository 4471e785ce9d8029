//! What the heartbeat says about the engine.

use std::sync::{
    OnceLock,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use protocol::message::{Heartbeat, WorkerMemory};

use super::step_time::StepTime;
use crate::{
    model::Progress,
    prefix_store::PrefixUsage,
    schedule::{Limits, Scheduler},
};

/// Numbers that the engine writes before and after each step, and that any thread may read.
#[derive(Debug, Default)]
pub struct EngineStats {
    steps: AtomicU64,
    runnable: AtomicU32,
    paused: AtomicU32,
    waiting: AtomicU32,
    kv_tokens: AtomicU64,
    kv_capacity: AtomicU64,
    /// Tokens that sequences and kept prefixes hold together.
    held_tokens: AtomicU64,
    /// Those of the kept prefixes.
    kept_tokens: AtomicU64,
    /// Pieces of work between the model's: rows sampled, rows emitted, steps.
    pieces: AtomicU64,
    /// Counts the model's, if that can be done.
    model: OnceLock<Progress>,
    preemptions: AtomicU64,
    /// Of prefixes on disk, if there are any.
    disk: OnceLock<PrefixUsage>,
    /// What the engine's thread does.
    pub(super) time: StepTime,
}

impl EngineStats {
    /// The numbers now, without those that are not the engine's.
    pub fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            step: self.steps.load(Ordering::Relaxed),
            runnable: self.runnable.load(Ordering::Relaxed),
            paused: self.paused.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
            oldest_preparation_millis: 0,
            kv_tokens: self.kv_tokens.load(Ordering::Relaxed),
            kv_capacity: self.kv_capacity.load(Ordering::Relaxed),
            progress: self.model.get().map(|model| model().wrapping_add(self.pieces.load(Ordering::Relaxed))),
            memory_bytes: 0,
            memory: WorkerMemory::default(),
            time: self.time.now(),
            preemptions: self.preemptions.load(Ordering::Relaxed),
            disk: self.disk.get().map(PrefixUsage::now).unwrap_or_default(),
        }
    }

    /// Tokens whose keys and values are held, by sequences and for later requests, after the last turn.
    pub fn held_tokens(&self) -> u64 {
        self.held_tokens.load(Ordering::Relaxed)
    }

    /// Those of them that are kept for later requests.
    pub fn kept_tokens(&self) -> u64 {
        self.kept_tokens.load(Ordering::Relaxed)
    }

    /// What counts the model's work, if anything does. To be called once.
    pub(super) fn set_progress(&self, model: Option<Progress>) {
        if let Some(model) = model {
            // It is set already if there was an engine before this one, of the same process.
            let _ = self.model.set(model);
        }
    }

    /// What says what is used of prefixes on disk. To be called once.
    pub(super) fn set_disk(&self, disk: PrefixUsage) {
        // As with what counts the model's work.
        let _ = self.disk.set(disk);
    }

    /// The engine has got on by a piece of work.
    pub(super) fn advance(&self) {
        self.pieces.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_limits(&self, limits: Limits) {
        self.kv_capacity.store(limits.kv_tokens as u64, Ordering::Relaxed);
    }

    pub(super) fn count_step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.advance();
    }

    /// `kept` are tokens of prefixes that sequences use.
    pub(super) fn publish(&self, scheduler: &Scheduler, kept: usize) {
        self.runnable.store(scheduler.runnable() as u32, Ordering::Relaxed);
        self.paused.store(scheduler.paused() as u32, Ordering::Relaxed);
        self.waiting.store(scheduler.waiting() as u32, Ordering::Relaxed);
        self.preemptions.store(scheduler.preemptions(), Ordering::Relaxed);
        // Who sends more requests has to know of the scarcer memory.
        let held = (scheduler.held_tokens() + kept).max(scheduler.windowed_share());
        self.kv_tokens.store(held as u64, Ordering::Relaxed);
    }

    /// Requests of a model that embeds text: those that are being computed, and all others.
    pub(super) fn publish_embedding(&self, running: usize, waiting: usize) {
        self.runnable.store(running as u32, Ordering::Relaxed);
        self.waiting.store(waiting as u32, Ordering::Relaxed);
    }

    /// `held` are tokens that sequences hold alone, `kept` those of prefixes.
    pub(super) fn publish_held(&self, held: usize, kept: usize) {
        self.held_tokens.store((held + kept) as u64, Ordering::Relaxed);
        self.kept_tokens.store(kept as u64, Ordering::Relaxed);
    }
}
