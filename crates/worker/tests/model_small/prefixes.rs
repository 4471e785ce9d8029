//! Sequences that go on behind what was computed for others.

use protocol::message::StreamEventKind;
use worker::{prefix_store::SEGMENT_TOKENS, schedule::Limits};

use super::{
    on::{On, on_every_backend},
    served::{LIMITS, Outcome, Stream, finished, serve, serve_from},
    tiny::{Float, SplitMix},
};

/// Tokens that a stream did not have to compute.
pub(crate) fn cached(stream: &Stream) -> u32 {
    match stream.1 {
        Some(StreamEventKind::Finished { usage, .. }) => usage.cached_tokens,
        _ => panic!("{stream:?}"),
    }
}

/// Prompts with common beginnings, some of which end inside of a block, give what each gives alone. There is one place, so
/// that each comes after the end of the one before, or room for all at once.
fn kept_prefixes_change_no_token(on: On) {
    let mut random = SplitMix(77);
    let base = random.tokens(90, 100);
    let prompt = |common: usize, own: usize, random: &mut SplitMix| {
        [&base[..common], &random.tokens(own, 100)[..]].concat()
    };
    let lens = [(90, 0), (90, 3), (90, 0), (70, 9), (64, 1), (33, 2), (5, 40), (90, 1)];
    let prompts = lens.map(|(common, own)| prompt(common, own, &mut random));
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    for max_num_seqs in [1, 8] {
        let limits = Limits { max_num_seqs, keep_prefixes: true, ..LIMITS };
        let (result, kept) = serve(on, limits, &prompts, |_| false);
        let (_, apart) = serve(on, Limits { keep_prefixes: false, ..limits }, &prompts, |_| false);
        assert!(result.is_ok() && kept.values().chain(apart.values()).all(finished), "{kept:?}");
        // A batch's size, or where a chunk is cut, can turn the choice between two tokens in other types.
        if on.float.is_none_or(|float| float == Float::F32) {
            let tokens = |streams: &super::served::Outcome| -> Vec<_> {
                streams.values().map(|stream| stream.0.clone()).collect()
            };
            assert_eq!(tokens(&kept), tokens(&apart), "{on:?}");
        }
        let found: Vec<u32> = kept.values().map(cached).collect();
        assert!(apart.values().all(|stream| cached(stream) == 0));
        if max_num_seqs == 1 {
            // All but the last token of a prompt, and whole blocks of what the first one has computed.
            assert_eq!(found[..2], [0, 90], "{on:?}");
            assert!(found[2] >= 64 && found[3] >= 64 && found[4] == 64 && found[5] == 33 && found[7] >= 90);
            assert_eq!(found[6], 0, "less than a block is not worth a copy");
        }
    }
}

/// A worker that starts anew goes on behind what the one before it has kept on disk, with the same tokens.
fn prefixes_from_the_disk_change_no_token(on: On) {
    let mut random = SplitMix(78);
    let base = random.tokens(3 * SEGMENT_TOKENS, 100);
    let prompt =
        |common: usize, random: &mut SplitMix| [&base[..common], &random.tokens(7, 100)[..]].concat();
    let lens = [3 * SEGMENT_TOKENS, 3 * SEGMENT_TOKENS, 2 * SEGMENT_TOKENS + 9];
    let prompts = lens.map(|common| prompt(common, &mut random));
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    // One after the other, so that each batch is the same.
    let limits = Limits { max_num_seqs: 1, kv_tokens: 2000, keep_prefixes: true, ..LIMITS };
    let folder = tempfile::tempdir().unwrap();
    let (_, without) = serve(on, Limits { keep_prefixes: false, ..limits }, &prompts, |_| false);
    let first = serve_from(on, limits, &prompts[..1], folder.path());
    let again = serve_from(on, limits, &prompts, folder.path());
    assert!([&without, &first, &again].iter().all(|streams| streams.values().all(finished)));
    assert_eq!((cached(&first[&0]), cached(&again[&0])), (0, 3 * SEGMENT_TOKENS as u32), "{on:?}");
    assert!(cached(&again[&2]) >= 2 * SEGMENT_TOKENS as u32);
    // In other types, where a chunk is cut can turn the choice between two tokens.
    if on.float.is_none_or(|float| float == Float::F32) {
        let tokens =
            |streams: &Outcome| -> Vec<_> { streams.values().map(|stream| stream.0.clone()).collect() };
        assert_eq!(tokens(&without), tokens(&again), "{on:?}");
    }
}

on_every_backend![kept_prefixes_change_no_token, prefixes_from_the_disk_change_no_token];
