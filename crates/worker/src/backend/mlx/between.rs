//! What of a step is of use to the next one: its rows' keys and values, gathered into one array.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mlx_rs::Array;

/// Says what a sequence has: another stamp, other tokens. A sequence gets a new one whenever some are added.
pub(super) type Stamp = u64;

/// Keys and values of a group's rows: of each row all heads, padded to `room` tokens.
pub(super) struct Copy {
    /// What the rows have, in order.
    pub(super) stamps: Vec<Stamp>,
    /// Tokens of a row.
    pub(super) room: i32,
    /// `[2 * rows * kv * room, dim]` of each layer.
    pub(super) layers: Vec<Option<Array>>,
}

/// The step that is being computed.
pub(super) struct Pending {
    /// Places of its tokens in the blocks.
    pub(super) slots: Array,
    /// Their keys and values: `[tokens, 2 * kv, 1, dim]` of each layer.
    pub(super) new: Vec<Option<Array>>,
    /// Of each group, if it is to be kept.
    pub(super) copies: Vec<Option<Copy>>,
}

/// Shared by all sequences and the step.
pub(super) struct Between {
    state: Mutex<State>,
    /// The most tokens that copies may have, padding included.
    limit: usize,
}

#[derive(Default)]
pub(super) struct State {
    last_stamp: Stamp,
    copies: Vec<Copy>,
    pub(super) pending: Option<Pending>,
}

impl Between {
    pub(super) fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), limit }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most tokens that copies may have.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }
}

impl State {
    pub(super) fn stamp(&mut self) -> Stamp {
        self.last_stamp += 1;
        self.last_stamp
    }

    /// The copy of exactly these rows, if the last step has left one with enough room.
    pub(super) fn take(&mut self, stamps: &[Stamp], room: i32) -> Option<Copy> {
        let found = self.copies.iter().position(|copy| copy.stamps == stamps && copy.room >= room)?;
        Some(self.copies.swap_remove(found))
    }

    /// Where the copies' layers are.
    #[cfg(test)]
    pub(super) fn addresses(&self) -> Vec<usize> {
        self.copies.iter().flat_map(|copy| copy.layers.iter().flatten()).map(super::address).collect()
    }

    /// Forgets everything: it is what a step has left that failed.
    pub(super) fn abandon(&mut self) {
        self.copies.clear();
        self.pending = None;
    }

    /// Frees the memory of copies that nobody has taken.
    pub(super) fn forget(&mut self) {
        self.copies.clear();
    }

    /// The pending step has been computed.
    pub(super) fn commit(&mut self) -> Option<(Array, Vec<Array>)> {
        let Pending { slots, new, copies } = self.pending.take()?;
        self.copies = copies.into_iter().flatten().filter(Copy::is_complete).collect();
        // A layer that was not computed has nothing to write.
        Some((slots, new.into_iter().collect::<Option<_>>()?))
    }
}

impl Copy {
    fn is_complete(&self) -> bool {
        self.layers.iter().all(Option::is_some)
    }
}
