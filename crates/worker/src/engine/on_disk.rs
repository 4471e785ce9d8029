//! What of a sequence's keys and values is kept on disk, or comes from there.

use crossbeam_channel::TryRecvError;
use tracing::warn;

use super::forward::Forward;
use crate::{
    cache::{Fork, Match, NodeId, Prefixes, Variant},
    prefix_store::{PrefixStore, Restoring, SEGMENT_TOKENS},
};

/// What of a sequence was looked for on disk, and kept there.
#[derive(Debug, Default)]
pub(super) struct OnDisk {
    /// It was looked for.
    asked: bool,
    /// It is being read.
    restoring: Option<Restoring>,
    /// Tokens whose keys and values need not be offered again.
    offered: usize,
}

/// What came of a look at what is being read.
pub(super) struct Taken {
    /// The prefix in memory that ends with it, if it is more than before.
    pub(super) node: Option<NodeId>,
    /// How many tokens longer than before.
    pub(super) tokens: usize,
    /// Whether more is to come.
    pub(super) more: bool,
}

impl OnDisk {
    /// Keeps what was computed of a sequence since it was last asked for it: `tokens` are all that are computed.
    pub(super) fn write<M: Forward>(
        &mut self,
        store: &PrefixStore,
        model: &M,
        (variant, tokens): (Variant, &[u32]),
        kv: &M::Kv,
    ) {
        let export = |tokens| {
            let exported = model.export(kv, tokens);
            exported.inspect_err(|error| warn!(%error, "keys and values can't be kept on disk")).ok()
        };
        self.offered = store.keep((variant, tokens), self.offered..tokens.len(), export);
    }

    /// Whether it was looked for.
    pub(super) fn is_asked(&self) -> bool {
        self.asked
    }

    /// How many tokens will be in memory with the next segment, if it is being read.
    pub(super) fn reaches(&self) -> Option<usize> {
        self.restoring.as_ref().map(|restoring| restoring.len + SEGMENT_TOKENS)
    }

    /// Has the disk read what follows what is in memory of `tokens`, if there is any. Returns the prefix in memory, which
    /// must not be evicted meanwhile.
    pub(super) fn ask<K: Fork>(
        &mut self,
        store: &PrefixStore,
        prefixes: &mut Prefixes<K>,
        (variant, tokens): (Variant, &[u32]),
    ) -> Option<NodeId> {
        self.asked = true;
        let found = prefixes.find(variant, tokens);
        self.restoring = store.read((variant, tokens), found.map_or(0, |found| found.len));
        self.restoring.as_ref().and(found).map(|found| found.node)
    }

    /// Takes what was read meanwhile to the prefixes in memory, where there is room for so many tokens, beside what can be
    /// evicted.
    pub(super) fn take<M: Forward>(
        &mut self,
        prefixes: &mut Prefixes<M::Kv>,
        model: &M,
        (variant, tokens): (Variant, &[u32]),
        room: usize,
    ) -> Taken {
        let Some(restoring) = &mut self.restoring else {
            return Taken { node: None, tokens: 0, more: false };
        };
        let before = restoring.len;
        let more = restored(prefixes, model, (variant, &tokens[..before])).map(|mut kv| {
            let more = append(restoring, prefixes, model, &mut kv, room);
            (more, kv)
        });
        let len = restoring.len;
        let (more, kv) = more.map_or((false, None), |(more, kv)| (more, Some(kv)));
        if !more {
            self.restoring = None;
        }
        self.offered = self.offered.max(len);
        let inserted =
            kv.filter(|_| len > before).and_then(|kv| prefixes.insert(variant, &tokens[..len], &kv));
        Taken { node: inserted.map(|(node, _)| node), tokens: len - before, more }
    }
}

/// Keys and values of these tokens, which are in memory.
fn restored<M: Forward>(
    prefixes: &mut Prefixes<M::Kv>,
    model: &M,
    (variant, tokens): (Variant, &[u32]),
) -> Option<M::Kv> {
    if tokens.is_empty() {
        return Some(model.new_kv());
    }
    let found @ Match { len, .. } = prefixes.find(variant, tokens)?;
    if len < tokens.len() { None } else { prefixes.resume(found) }
}

/// Appends the segments that have been read. False if no more is to come.
fn append<M: Forward>(
    restoring: &mut Restoring,
    prefixes: &mut Prefixes<M::Kv>,
    model: &M,
    kv: &mut M::Kv,
    mut room: usize,
) -> bool {
    loop {
        let bytes = match restoring.segments.try_recv() {
            Ok(bytes) => bytes,
            Err(TryRecvError::Empty) => return true,
            Err(TryRecvError::Disconnected) => return false,
        };
        if let missing @ 1.. = SEGMENT_TOKENS.saturating_sub(room) {
            room += prefixes.evict(missing);
        }
        if room < SEGMENT_TOKENS {
            return false;
        }
        if let Err(error) = model.import(kv, SEGMENT_TOKENS, &bytes) {
            warn!(%error, "keys and values from the disk can't be used");
            return false;
        }
        restoring.len += SEGMENT_TOKENS;
        room -= SEGMENT_TOKENS;
    }
}
