//! What of a step is of use to the next one: its rows' keys and values, gathered into one array.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mlx_rs::{
    Array,
    error::Exception,
    ops::{concatenate, indexing::scatter_single},
};

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
    /// If the next step may be launched before this one has been computed.
    pub(super) spare: Option<Spare>,
}

/// The copy as it was a step before.
///
/// MLX writes in place only to what nothing else refers to, and a step that is computed refers to its copy, which its
/// attention reads. A copy of one step before is free by then: the next step adds the tokens of two steps to that one.
pub(super) struct Spare {
    /// As the copy has them; `None`: there is none yet.
    pub(super) layers: Vec<Option<Array>>,
    /// What it lacks: of each layer `[tokens * 2 * kv, 1, dim]`.
    lacking: Vec<Option<Array>>,
    /// So many tokens of each row.
    pub(super) tokens: i32,
}

/// Places of tokens in a copy: int32 `[tokens * 2 * kv]`.
pub(super) struct NewPlaces {
    /// Of a step's tokens.
    pub(super) of_step: Array,
    /// Of those that the spare lacks, and the step's.
    pub(super) of_both: Option<Array>,
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
        let found = self.find(stamps, room)?;
        Some(self.copies.swap_remove(found))
    }

    /// For how many tokens of each row the copy has room that [`take`](Self::take) would give.
    pub(super) fn room(&self, stamps: &[Stamp], room: i32) -> Option<i32> {
        self.copies.get(self.find(stamps, room)?).map(|copy| copy.room)
    }

    fn find(&self, stamps: &[Stamp], room: i32) -> Option<usize> {
        self.copies.iter().position(|copy| copy.stamps == stamps && copy.room >= room)
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

    /// Where the spares' layers are.
    #[cfg(test)]
    pub(super) fn spare_addresses(&self) -> Vec<usize> {
        let spares = self.copies.iter().filter_map(|copy| copy.spare.as_ref());
        spares.flat_map(|spare| spare.layers.iter().flatten()).map(super::address).collect()
    }

    /// What spares lack are not the last tokens of every sequence any more.
    pub(super) fn forget_spares(&mut self) {
        self.copies.iter_mut().for_each(|copy| copy.spare = None);
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
    /// One without keys and values, with a spare or without.
    pub(super) fn new(stamps: Vec<Stamp>, room: i32, layers: usize, spare: bool) -> Self {
        let none = || vec![None; layers];
        let spare = spare.then(|| Spare { layers: none(), lacking: none(), tokens: 0 });
        Self { stamps, room, layers: none(), spare }
    }

    /// The copy with a step's tokens, `new` `[tokens * 2 * kv, 1, dim]`, in one layer. It was `gathered` in this step, or is
    /// there already.
    pub(super) fn add(
        &mut self,
        layer: usize,
        gathered: Option<Array>,
        places: &NewPlaces,
        new: Array,
    ) -> Result<Array, Exception> {
        let (Some(place), twice) =
            (self.layers.get_mut(layer), "a layer's attention is computed twice in a step")
        else {
            return Err(Exception::custom("a copy has fewer layers"));
        };
        let latest = gathered.or_else(|| place.take()).ok_or_else(|| Exception::custom(twice))?;
        let all = match &mut self.spare {
            // Nothing else refers to it: it is written in place.
            None => scatter_single(latest, &places.of_step, new, 0)?,
            Some(spare) => spare.add(layer, latest, places, new)?,
        };
        *place = Some(all.clone());
        Ok(all)
    }

    fn is_complete(&self) -> bool {
        self.layers.iter().all(Option::is_some)
    }
}

impl Spare {
    /// [`Copy::add`], which takes its place by `latest`.
    fn add(
        &mut self,
        layer: usize,
        latest: Array,
        places: &NewPlaces,
        new: Array,
    ) -> Result<Array, Exception> {
        let (Some(before), Some(lacking)) = (self.layers.get_mut(layer), self.lacking.get_mut(layer)) else {
            return Err(Exception::custom("a copy has fewer layers"));
        };
        let all = match (before.take(), lacking.take(), &places.of_both) {
            (Some(before), Some(lacking), Some(places)) => {
                scatter_single(before, places, concatenate(&[&lacking, &new], 0)?, 0)?
            }
            _ => scatter_single(&latest, &places.of_step, &new, 0)?,
        };
        (*before, *lacking) = (Some(latest), Some(new));
        Ok(all)
    }
}
