#![allow(clippy::unwrap_used)]

use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering},
};

use artifact_store::Digest;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{segment::SegmentError, *};

const BASE: Variant = Variant(None);
const TOKEN_BYTES: usize = 3;
const SEGMENT: usize = SEGMENT_TOKENS * TOKEN_BYTES;

fn open(dir: &TempDir, identity: &str, segments: u64) -> PrefixStore {
    let config = PrefixStoreConfig {
        dir: dir.path(),
        max_bytes: segments * segment::file_bytes(SEGMENT),
        identity,
        token_bytes: TOKEN_BYTES,
    };
    PrefixStore::open(config, || {}).unwrap()
}

fn tokens(segments: usize, seed: u32) -> Vec<u32> {
    (0..(segments * SEGMENT_TOKENS) as u32).map(|n| n.wrapping_mul(7).wrapping_add(seed)).collect()
}

/// Keys and values of tokens: made of them.
fn kv(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_le_bytes().into_iter().take(TOKEN_BYTES)).collect()
}

/// Offers all of `tokens`, and waits until they are written.
fn keep(store: PrefixStore, tokens: &[u32]) {
    let end = store.keep((BASE, tokens), 0..tokens.len(), |range| Some(kv(&tokens[range])));
    assert_eq!(end, tokens.len() / SEGMENT_TOKENS * SEGMENT_TOKENS);
}

fn read(store: &PrefixStore, tokens: &[u32], known: usize) -> Vec<Vec<u8>> {
    store.read((BASE, tokens), known).map_or_else(Vec::new, |restoring| restoring.segments.iter().collect())
}

#[test]
fn equal_tokens_of_an_adapter_are_others() {
    let dir = TempDir::new().unwrap();
    let all = tokens(2, 1);
    let adapters = [b"a", b"b"].map(|name| Variant(Some(Digest::of(name))));
    keep(open(&dir, "m", 100), &all);
    let store = open(&dir, "m", 100);
    assert!(adapters.iter().all(|&adapter| store.read((adapter, &all), 0).is_none()));
    store.keep((adapters[0], &all), 0..all.len(), |range| Some(kv(&all[range])));
    drop(store);
    let store = open(&dir, "m", 100);
    assert!(store.read((adapters[0], &all), 0).is_some() && store.read((adapters[1], &all), 0).is_none());
}

#[test]
fn what_was_kept_is_there_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let all = tokens(3, 1);
    keep(open(&dir, "m", 100), &all[..2 * SEGMENT_TOKENS + 5]);
    let store = open(&dir, "m", 100);
    let expected: Vec<_> = all.chunks(SEGMENT_TOKENS).take(2).map(kv).collect();
    assert_eq!(read(&store, &all, 0), expected);
    assert_eq!(store.read((BASE, &all), SEGMENT_TOKENS + 1).unwrap().len, SEGMENT_TOKENS);
    assert_eq!(read(&store, &all, SEGMENT_TOKENS + 1), expected[1..]);
    assert!(store.read((BASE, &all), 2 * SEGMENT_TOKENS).is_none(), "nothing follows");
    assert!(store.read((BASE, &all[..SEGMENT_TOKENS - 1]), 0).is_none(), "less than a segment");
}

#[test]
fn other_models_and_other_beginnings_find_nothing() {
    let dir = TempDir::new().unwrap();
    let mut all = tokens(2, 1);
    keep(open(&dir, "m", 100), &all);
    assert!(open(&dir, "another", 100).read((BASE, &all), 0).is_none());
    let store = open(&dir, "m", 100);
    all[0] += 1;
    assert!(store.read((BASE, &all), 0).is_none() && store.read((BASE, &all), SEGMENT_TOKENS).is_none());
}

#[test]
fn what_is_kept_already_is_not_exported_again() {
    let dir = TempDir::new().unwrap();
    let all = tokens(3, 1);
    keep(open(&dir, "m", 100), &all[..SEGMENT_TOKENS]);
    let store = open(&dir, "m", 100);
    let exported = AtomicUsize::new(0);
    let export = |range: Range<usize>| {
        exported.fetch_add(1, Ordering::Relaxed);
        Some(kv(&all[range]))
    };
    store.keep((BASE, &all), 0..all.len(), export);
    assert_eq!(exported.load(Ordering::Relaxed), 2);
    assert_eq!(store.keep((BASE, &all), 10..20, |_| panic!("no segment ends there")), 10);
    assert_eq!(
        store.keep((BASE, &tokens(1, 9)), 0..SEGMENT_TOKENS, |_| None),
        0,
        "what can't be exported is not kept"
    );
}

#[test]
fn the_least_recently_used_makes_room_the_end_of_a_sequence_first() {
    let dir = TempDir::new().unwrap();
    let (old, used, new) = (tokens(2, 1), tokens(2, 2), tokens(1, 3));
    keep(open(&dir, "m", 4), &used);
    keep(open(&dir, "m", 4), &old);
    assert_eq!(read(&open(&dir, "m", 4), &used, 0).len(), 2);
    keep(open(&dir, "m", 4), &new);
    let store = open(&dir, "m", 4);
    let left = [&old, &used, &new].map(|tokens| read(&store, tokens, 0).len());
    assert_eq!(left, [1, 2, 1]);
}

#[test]
fn other_workers_files_count() {
    let dir = TempDir::new().unwrap();
    let stores = [open(&dir, "m", 20), open(&dir, "n", 20)];
    for seed in 0..40 {
        for store in &stores {
            let all = tokens(1, 100 * seed);
            store.keep((BASE, &all), 0..all.len(), |range| Some(kv(&all[range])));
        }
    }
    drop(stores);
    let files = fs::read_dir(dir.path()).unwrap().count() as u64;
    // Each may have written some since it last counted.
    assert!((10..=20 + 2 * 16).contains(&files), "{files}");
    drop(open(&dir, "m", 20));
    assert!(fs::read_dir(dir.path()).unwrap().count() <= 20);
}

#[test]
fn a_damaged_file_ends_what_is_read_and_goes() {
    let dir = TempDir::new().unwrap();
    let all = tokens(2, 1);
    keep(open(&dir, "m", 100), &all);
    let store = open(&dir, "m", 100);
    let path = dir.path().join(store.root.chain(&all).nth(1).unwrap().to_string());
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(read(&store, &all, 0), [kv(&all[..SEGMENT_TOKENS])]);
    assert!(!path.exists());
}

#[test]
fn less_than_a_segment_can_not_be_the_limit() {
    let dir = TempDir::new().unwrap();
    let config =
        PrefixStoreConfig { dir: dir.path(), max_bytes: 500, identity: "m", token_bytes: TOKEN_BYTES };
    let error = PrefixStore::open(config, || {}).unwrap_err();
    assert!(error.to_string().starts_with("956 bytes are the least"), "{error}");
}

proptest! {
    /// Whatever byte of a file changes, and wherever it ends, it is not used.
    #[test]
    fn a_file_is_used_as_it_was_written_or_not_at_all(change in any::<prop::sample::Index>(), bit in 0..8_u8, cut in any::<bool>()) {
        let (key, all) = (Key::root("m"), tokens(1, 5));
        let mut file = Vec::new();
        segment::write(&key, &all, &kv(&all), &mut file).unwrap();
        prop_assert_eq!(segment::read(&key, &all, SEGMENT, &mut &file[..]).unwrap(), kv(&all));
        let at = change.index(file.len());
        if cut {
            file.truncate(at);
        } else {
            file[at] ^= 1 << bit;
        }
        let error = segment::read(&key, &all, SEGMENT, &mut &file[..]).unwrap_err();
        prop_assert_eq!(matches!(error, SegmentError::Io(_)), cut);
    }

    /// Bytes from anywhere are no segment.
    #[test]
    fn other_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let all = tokens(1, 5);
        prop_assert!(segment::read(&Key::root("m"), &all, SEGMENT, &mut &bytes[..]).is_err());
    }
}
