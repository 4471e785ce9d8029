//! What the heartbeat says about the engine.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use protocol::message::Heartbeat;

use crate::schedule::{Limits, Scheduler};

/// Numbers that the engine writes before and after each step, and that any thread may read.
#[derive(Debug, Default)]
pub struct EngineStats {
    steps: AtomicU64,
    runnable: AtomicU32,
    paused: AtomicU32,
    waiting: AtomicU32,
    kv_tokens: AtomicU64,
    kv_capacity: AtomicU64,
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
            memory_bytes: 0,
        }
    }

    pub(super) fn set_limits(&self, limits: Limits) {
        self.kv_capacity.store(limits.kv_tokens as u64, Ordering::Relaxed);
    }

    pub(super) fn count_step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn publish(&self, scheduler: &Scheduler) {
        self.runnable.store(scheduler.runnable() as u32, Ordering::Relaxed);
        self.paused.store(scheduler.paused() as u32, Ordering::Relaxed);
        self.waiting.store(scheduler.waiting() as u32, Ordering::Relaxed);
        self.kv_tokens.store(scheduler.held_tokens() as u64, Ordering::Relaxed);
    }
}
