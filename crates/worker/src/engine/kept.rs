//! Prefixes of sequences that are kept for later ones: in memory, and on disk if that is wanted.

mod disk;

use std::collections::HashMap;

pub(super) use self::disk::OnDisk;
use super::{Slot, forward::Forward};
use crate::{
    cache::{BLOCK_TOKENS, Fork, Match, Prefixes},
    prefix_store::PrefixStore,
    schedule::{Found, Kept, Scheduler, SequenceId},
};

/// Keys and values of prefixes; of none if they are not to be kept.
#[derive(Debug)]
pub(super) struct KeptPrefixes<K> {
    prefixes: Option<Prefixes<K>>,
    /// What is forked takes no memory until it is written to.
    forks_share: bool,
    /// Those on disk.
    store: Option<PrefixStore>,
}

/// The prefixes and the sequences: all that the scheduler decides on.
pub(super) struct KeptMemory<'a, M: Forward> {
    pub(super) kept: &'a mut KeptPrefixes<M::Kv>,
    pub(super) slots: &'a mut HashMap<SequenceId, Slot<M::Kv>>,
    pub(super) model: &'a M,
}

impl<K: Fork> KeptPrefixes<K> {
    /// Those of the sequences of `model`.
    pub(super) fn new<M: Forward<Kv = K>>(model: &M, keep: bool) -> Self {
        let shared_block = model.shared_block();
        let forks_share = shared_block.is_some();
        let prefixes = keep.then(|| Prefixes::new(shared_block.unwrap_or(BLOCK_TOKENS), forks_share));
        Self { prefixes, forks_share, store: None }
    }

    /// Keeps prefixes there, too, if they are kept at all.
    pub(super) fn set_store(&mut self, store: PrefixStore) {
        self.store = self.prefixes.is_some().then_some(store);
    }

    /// Tokens whose keys and values are held for some sequence.
    pub(super) fn used_tokens(&self) -> usize {
        self.prefixes.as_ref().map_or(0, Prefixes::used_tokens)
    }

    /// Tokens whose keys and values are held.
    pub(super) fn held_tokens(&self) -> usize {
        self.prefixes.as_ref().map_or(0, Prefixes::held_tokens)
    }

    /// Keeps what a sequence has computed of its prompt, so that others can go on behind it while it goes on, too.
    pub(super) fn publish<M: Forward<Kv = K>>(
        &mut self,
        id: SequenceId,
        slot: &mut Slot<K>,
        scheduler: &mut Scheduler,
        model: &M,
    ) {
        self.write(slot, scheduler.computed(id), model);
        let (Some(prefixes), true, Some(kv)) = (&mut self.prefixes, self.forks_share, &slot.kv) else {
            return;
        };
        let tokens = &slot.sequence.tokens[..scheduler.computed(id)];
        let Some((node, known)) = prefixes.insert(tokens, kv) else { return };
        if scheduler.share(id, known, prefixes.whole_blocks(tokens.len())) {
            prefixes.hold(node);
            slot.held.replace(node).into_iter().for_each(|before| prefixes.release(before));
        }
    }

    /// The first `computed` tokens of a sequence, which loses its keys and values, are kept.
    pub(super) fn take_over<M: Forward<Kv = K>>(&mut self, slot: &mut Slot<K>, computed: usize, model: &M) {
        self.write(slot, computed, model);
        slot.disk = OnDisk::default();
        let (kv, held) = (slot.kv.take(), slot.held.take());
        let Some(prefixes) = &mut self.prefixes else { return };
        if let Some(kv) = kv.filter(|kv| model.is_intact(kv)) {
            prefixes.insert(&slot.sequence.tokens[..computed], &kv);
        }
        held.into_iter().for_each(|node| prefixes.release(node));
    }
}

impl<M: Forward> KeptMemory<'_, M> {
    /// Whether one of `computing` will have computed more than `len` of these tokens.
    fn comes_soon(&self, tokens: &[u32], len: usize, computing: &[(SequenceId, usize)]) -> bool {
        let Some(prefixes) = self.kept.prefixes.as_ref().filter(|_| self.kept.forks_share) else {
            return false;
        };
        computing.iter().any(|(other, computed)| {
            let Some(other) = self.slots.get(other) else { return false };
            let others = other.sequence.tokens.iter();
            let common = tokens.iter().zip(others).take_while(|(one, other)| one == other).count();
            prefixes.whole_blocks(common) > len.max(*computed)
        })
    }

    fn reuse(&mut self, id: SequenceId, found: Match) -> Option<Found> {
        let (prefixes, slot) = (self.kept.prefixes.as_mut()?, self.slots.get_mut(&id)?);
        slot.kv = Some(prefixes.fork(found)?);
        // A copy does not need what it was copied from.
        let held = self.kept.forks_share.then_some(found.node);
        held.into_iter().for_each(|node| prefixes.hold(node));
        std::mem::replace(&mut slot.held, held).into_iter().for_each(|before| prefixes.release(before));
        let shared = if held.is_some() { prefixes.whole_blocks(found.len) } else { 0 };
        Some(Found::Ready { computed: found.len, shared })
    }
}

impl<M: Forward> Kept for KeptMemory<'_, M> {
    fn held_tokens(&self) -> usize {
        self.kept.held_tokens()
    }

    fn evict(&mut self, tokens: usize) -> usize {
        self.kept.prefixes.as_mut().map_or(0, |prefixes| prefixes.evict(tokens))
    }

    fn find(&mut self, id: SequenceId, computing: &[(SequenceId, usize)], room: usize) -> Found {
        if self.restore(id, room) {
            return Found::Soon;
        }
        let (Some(prefixes), Some(slot)) = (&mut self.kept.prefixes, self.slots.get(&id)) else {
            return Found::NOTHING;
        };
        // Logits are needed after the last token, so that one is always computed.
        let tokens = &slot.sequence.tokens[..slot.sequence.tokens.len() - 1];
        // Less than a block is not worth a copy.
        let found = prefixes.find(tokens).filter(|found| prefixes.whole_blocks(found.len) > 0);
        if self.comes_soon(tokens, found.map_or(0, |found| found.len), computing) {
            return Found::Soon;
        }
        let reused = found.and_then(|found| self.reuse(id, found)).unwrap_or(Found::NOTHING);
        if let (Found::Ready { computed, .. }, Some(slot)) = (reused, self.slots.get_mut(&id))
            && !slot.started
        {
            slot.first_computed = computed;
        }
        reused
    }

    fn drop_memory(&mut self, id: SequenceId, computed: usize) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.first_computed = if slot.started { slot.first_computed } else { 0 };
            self.kept.take_over(slot, computed, self.model);
        }
    }
}
