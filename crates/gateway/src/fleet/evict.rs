//! Which model makes room for another, and which is unloaded because nobody asks for it. Pure.
//!
//! A model that a request uses or waits for is never chosen. A pinned one is chosen only to make room, and only if no
//! other can.

use std::time::{Duration, Instant};

/// A model that has workers, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resident {
    /// How far it has come.
    pub(super) stage: Stage,
    /// Requests that use it or wait for it.
    pub(super) in_use: usize,
    /// When the last of them came or ended.
    pub(super) last_used: Instant,
    /// It stays loaded if that is possible.
    pub(super) pinned: bool,
    /// Bytes of memory that are reserved for it.
    pub(super) reserved: u64,
}

/// What may be loaded at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Most {
    pub(super) models: usize,
    /// Of memory.
    pub(super) bytes: u64,
}

/// How far a model has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is being loaded.
    Loading,
    /// It takes requests.
    Serving,
    /// Its workers are being ended.
    Leaving,
}

/// How another model can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// At once.
    Free,
    /// When this one is gone, which is leaving and has nothing to finish.
    Soon(usize),
    /// When this one was unloaded.
    Evict(usize),
    /// Only when one becomes idle, or has left.
    Full,
}

/// What becomes of a model that nobody uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Idle {
    /// It is unloaded now.
    Unload,
    /// It may be then: look again.
    Until(Instant),
    /// It stays.
    Never,
}

/// Where there is room for one model more, which takes at least `least` bytes of memory.
pub(super) fn room(residents: &[Resident], most: Most, least: u64) -> Room {
    let left = |gone: fn(&Resident) -> bool| {
        let others = residents.iter().filter(|it| !gone(it)).map(|it| it.reserved);
        most.bytes.saturating_sub(others.fold(0, u64::saturating_add))
    };
    if residents.len() < most.models && least <= left(|_| false) {
        return Room::Free;
    }
    // Nothing leaves in vain.
    if least > left(|it| it.in_use == 0 && it.stage != Stage::Loading) {
        return Room::Full;
    }
    let soon = |it: &Resident| it.stage == Stage::Leaving && it.in_use == 0;
    if let Some(index) = residents.iter().position(soon) {
        return Room::Soon(index);
    }
    let idle = residents.iter().enumerate().filter(|(_, it)| it.stage == Stage::Serving && it.in_use == 0);
    match idle.min_by_key(|(_, it)| (it.pinned, it.last_used)) {
        Some((index, _)) => Room::Evict(index),
        None => Room::Full,
    }
}

/// Whether a model was idle for `ttl`.
pub(super) fn idle(resident: &Resident, ttl: Duration, now: Instant) -> Idle {
    let Resident { stage, in_use, last_used, pinned, .. } = *resident;
    if pinned || stage == Stage::Leaving {
        return Idle::Never;
    }
    let last_used = if in_use > 0 || stage == Stage::Loading { now } else { last_used };
    let until = last_used + ttl;
    if until <= now { Idle::Unload } else { Idle::Until(until) }
}

#[cfg(test)]
mod tests;
