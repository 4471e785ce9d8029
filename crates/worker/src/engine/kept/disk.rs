//! Prefixes on their way to the disk and back.

use crossbeam_channel::TryRecvError;
use tracing::warn;

use super::{KeptMemory, KeptPrefixes};
use crate::{
    cache::{Fork, Match, Prefixes},
    engine::{Forward, Slot},
    prefix_store::{PrefixStore, Restoring, SEGMENT_TOKENS},
    schedule::SequenceId,
};

/// What of a sequence was looked for on disk, and kept there.
#[derive(Debug, Default)]
pub(in crate::engine) struct OnDisk {
    /// It was looked for.
    asked: bool,
    /// It is being read.
    restoring: Option<Restoring>,
    /// Tokens whose keys and values need not be offered again.
    offered: usize,
}

impl<K: Fork> KeptPrefixes<K> {
    /// Keeps on disk what a sequence has computed since it was last asked for it.
    pub(super) fn write<M: Forward<Kv = K>>(&self, slot: &mut Slot<K>, computed: usize, model: &M) {
        let Slot { sequence, kv: Some(kv), disk, .. } = slot else { return };
        let Some(store) = self.store.as_ref().filter(|_| model.is_intact(kv)) else { return };
        let export = |tokens| {
            let exported = model.export(kv, tokens);
            exported.inspect_err(|error| warn!(%error, "keys and values can't be kept on disk")).ok()
        };
        disk.offered = store.keep(&sequence.tokens[..computed], disk.offered..computed, export);
    }
}

impl<M: Forward> KeptMemory<'_, M> {
    /// Takes what has been read of a sequence's tokens to the prefixes in memory. The first call has it looked for, and
    /// as long as it is being read, the answer is true. There is room for so many tokens, beside what can be evicted.
    pub(super) fn restore(&mut self, id: SequenceId, room: usize) -> bool {
        let Self { kept: KeptPrefixes { prefixes: Some(prefixes), store: Some(store), .. }, slots, model } =
            self
        else {
            return false;
        };
        if others_read(slots, id) {
            return true;
        }
        let Some(slot) = slots.get_mut(&id) else { return false };
        if !std::mem::replace(&mut slot.disk.asked, true) {
            slot.disk.restoring = begin(prefixes, store, slot);
        }
        let Some(mut restoring) = slot.disk.restoring.take() else { return false };
        if !take_segments(prefixes, *model, slot, &mut restoring, room) {
            return false;
        }
        slot.disk.restoring = Some(restoring);
        true
    }
}

/// Whether what a sequence needs is being read for another one, further than it is in memory.
fn others_read<K>(slots: &std::collections::HashMap<SequenceId, Slot<K>>, id: SequenceId) -> bool {
    let Some(own) = slots.get(&id).filter(|slot| !slot.disk.asked) else { return false };
    slots.iter().any(|(other, slot)| {
        let Some(restoring) = slot.disk.restoring.as_ref().filter(|_| *other != id) else { return false };
        let both = own.sequence.tokens.iter().zip(&slot.sequence.tokens);
        both.take_while(|(own, other)| own == other).count() >= restoring.len + SEGMENT_TOKENS
    })
}

/// Has the disk read what follows what is in memory, which is not evicted meanwhile.
fn begin<K: Fork>(prefixes: &mut Prefixes<K>, store: &PrefixStore, slot: &mut Slot<K>) -> Option<Restoring> {
    // Logits are needed after the last token, so that one is always computed.
    let tokens = &slot.sequence.tokens[..slot.sequence.tokens.len() - 1];
    let found = prefixes.find(tokens);
    let restoring = store.read(tokens, found.map_or(0, |found| found.len))?;
    if let Some(found) = found {
        hold(prefixes, slot, found.node);
    }
    Some(restoring)
}

/// False if no more is to come.
fn take_segments<M: Forward>(
    prefixes: &mut Prefixes<M::Kv>,
    model: &M,
    slot: &mut Slot<M::Kv>,
    restoring: &mut Restoring,
    mut room: usize,
) -> bool {
    let tokens = &slot.sequence.tokens;
    let Some(mut kv) = restored(prefixes, model, &tokens[..restoring.len]) else { return false };
    let mut len = restoring.len;
    let more = loop {
        let bytes = match restoring.segments.try_recv() {
            Ok(bytes) => bytes,
            Err(TryRecvError::Empty) => break true,
            Err(TryRecvError::Disconnected) => break false,
        };
        if let missing @ 1.. = SEGMENT_TOKENS.saturating_sub(room) {
            room += prefixes.evict(missing);
        }
        if room < SEGMENT_TOKENS {
            break false;
        }
        if let Err(error) = model.import(&mut kv, SEGMENT_TOKENS, &bytes) {
            warn!(%error, "keys and values from the disk can't be used");
            break false;
        }
        len += SEGMENT_TOKENS;
        room -= SEGMENT_TOKENS;
    };
    if len > restoring.len
        && let Some((node, _)) = prefixes.insert(&tokens[..len], &kv)
    {
        restoring.len = len;
        slot.disk.offered = slot.disk.offered.max(len);
        hold(prefixes, slot, node);
    }
    more
}

/// Keys and values of these tokens, which are in memory.
fn restored<M: Forward>(prefixes: &mut Prefixes<M::Kv>, model: &M, tokens: &[u32]) -> Option<M::Kv> {
    if tokens.is_empty() {
        return Some(model.new_kv());
    }
    let Match { node, len } = prefixes.find(tokens)?;
    if len < tokens.len() { None } else { prefixes.fork(Match { node, len }) }
}

fn hold<K: Fork>(prefixes: &mut Prefixes<K>, slot: &mut Slot<K>, node: crate::cache::NodeId) {
    prefixes.hold(node);
    slot.held.replace(node).into_iter().for_each(|before| prefixes.release(before));
}
