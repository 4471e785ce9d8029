//! Prefixes of sequences that are kept for later ones: in memory, and on disk if that is wanted.

use std::collections::HashMap;

use super::{Slot, forward::Forward, on_disk::OnDisk};
use crate::{
    cache::{Fork, Match, NodeId, Prefixes, Variant},
    prefix_store::PrefixStore,
    schedule::{Found, Kept, Scheduler, SequenceId},
};

/// Keys and values of prefixes; of none if they are not to be kept.
#[derive(Debug)]
pub(super) struct KeptPrefixes<K> {
    prefixes: Option<Prefixes<K>>,
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
        Self { prefixes: keep.then(|| Prefixes::new(model.shared_block())), store: None }
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
        let (Some(prefixes), Some(kv)) = (&mut self.prefixes, &slot.kv) else { return };
        let tokens = &slot.sequence.tokens[..scheduler.computed(id)];
        let Some((node, known)) = prefixes.insert(slot.sequence.variant(), tokens, kv) else { return };
        if scheduler.share(id, known, prefixes.whole_blocks(tokens.len())) {
            hold(prefixes, &mut slot.held, Some(node));
        }
    }

    /// Keeps on disk what a sequence has computed since it was last asked for it.
    fn write<M: Forward<Kv = K>>(&self, slot: &mut Slot<K>, computed: usize, model: &M) {
        if let (Some(store), Some(kv)) = (&self.store, &slot.kv) {
            let tokens = &slot.sequence.tokens[..computed];
            slot.disk.write(store, model, (slot.sequence.variant(), tokens), kv);
        }
    }

    /// The first `computed` tokens of a sequence, which loses its keys and values, are kept.
    pub(super) fn take_over<M: Forward<Kv = K>>(&mut self, slot: &mut Slot<K>, computed: usize, model: &M) {
        self.write(slot, computed, model);
        slot.disk = OnDisk::default();
        slot.drafting.clear();
        let (kv, held) = (slot.kv.take(), slot.held.take());
        let Some(prefixes) = &mut self.prefixes else { return };
        if let Some(kv) = kv {
            prefixes.insert(slot.sequence.variant(), &slot.sequence.tokens[..computed], &kv);
        }
        held.into_iter().for_each(|node| prefixes.release(node));
    }
}

impl<M: Forward> KeptMemory<'_, M> {
    /// Whether one of `computing` will have computed more than `len` of these tokens.
    fn comes_soon(
        &self,
        (variant, tokens): (Variant, &[u32]),
        len: usize,
        computing: &[(SequenceId, usize)],
    ) -> bool {
        let Some(prefixes) = &self.kept.prefixes else { return false };
        computing.iter().any(|(other, computed)| {
            let other = self.slots.get(other).filter(|other| other.sequence.variant() == variant);
            let Some(other) = other else { return false };
            let others = other.sequence.tokens.iter();
            let common = tokens.iter().zip(others).take_while(|(one, other)| one == other).count();
            prefixes.whole_blocks(common) > len.max(*computed)
        })
    }

    /// Takes what has been read of a sequence's tokens to the prefixes in memory. The first call has it looked for; as long
    /// as it is being read, here or for another sequence, the answer is true. There is room for so many tokens, beside
    /// what can be evicted.
    fn restore(&mut self, id: SequenceId, room: usize) -> bool {
        if self.others_read(id) {
            return true;
        }
        let KeptPrefixes { prefixes: Some(prefixes), store: Some(store), .. } = &mut self.kept else {
            return false;
        };
        let Some(slot) = self.slots.get_mut(&id) else { return false };
        let tokens = (slot.sequence.variant(), to_find(&slot.sequence.tokens));
        if !slot.disk.is_asked()
            && let Some(node) = slot.disk.ask(store, prefixes, tokens)
        {
            hold(prefixes, &mut slot.held, Some(node));
        }
        let taken = slot.disk.take(prefixes, self.model, tokens, room);
        store.count_tokens(taken.tokens);
        if taken.node.is_some() {
            hold(prefixes, &mut slot.held, taken.node);
        }
        taken.more
    }

    /// Whether what a sequence needs is being read for another one, further than it is in memory.
    fn others_read(&self, id: SequenceId) -> bool {
        let Some(own) = self.slots.get(&id).filter(|slot| !slot.disk.is_asked()) else { return false };
        let variant = own.sequence.variant();
        let others = self.slots.iter().filter(|(other, _)| **other != id).map(|(_, other)| other);
        others.filter(|other| other.sequence.variant() == variant).any(|other| {
            let tokens = own.sequence.tokens.iter().zip(&other.sequence.tokens);
            let common = || tokens.take_while(|(own, other)| own == other).count();
            other.disk.reaches().is_some_and(|reached| common() >= reached)
        })
    }

    fn reuse(&mut self, id: SequenceId, found: Match) -> Option<Found> {
        let (prefixes, slot) = (self.kept.prefixes.as_mut()?, self.slots.get_mut(&id)?);
        slot.kv = Some(prefixes.resume(found)?);
        hold(prefixes, &mut slot.held, Some(found.node));
        Some(Found::Ready { computed: found.len, shared: prefixes.whole_blocks(found.len) })
    }
}

impl<M: Forward> KeptMemory<'_, M> {
    /// Others begin with the same `known` tokens as a sequence that goes on before: where they part, later ones can go on.
    fn mark(&mut self, id: SequenceId, known: usize, reused: Found) {
        if let (Found::Ready { computed, .. }, Some(slot)) = (reused, self.slots.get_mut(&id))
            && computed < known
        {
            self.model.mark(slot.kv.get_or_insert_with(|| self.model.new_kv()), known);
        }
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
        let (variant, tokens) = (slot.sequence.variant(), to_find(&slot.sequence.tokens));
        // Less than a block is not worth a copy.
        let found = prefixes.find(variant, tokens).filter(|found| prefixes.whole_blocks(found.len) > 0);
        let known = prefixes.whole_blocks(prefixes.known(variant, tokens));
        if self.comes_soon((variant, tokens), found.map_or(0, |found| found.len), computing) {
            return Found::Soon;
        }
        let reused = found.and_then(|found| self.reuse(id, found)).unwrap_or(Found::NOTHING);
        self.mark(id, known, reused);
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

/// What is looked for of a sequence's tokens: logits are needed after the last one, so that one is always computed.
fn to_find(tokens: &[u32]) -> &[u32] {
    &tokens[..tokens.len() - 1]
}

/// A sequence that uses the prefix `held` uses another one from now on, or none.
fn hold<K: Fork>(prefixes: &mut Prefixes<K>, held: &mut Option<NodeId>, node: Option<NodeId>) {
    node.into_iter().for_each(|node| prefixes.hold(node));
    std::mem::replace(held, node).into_iter().for_each(|before| prefixes.release(before));
}
