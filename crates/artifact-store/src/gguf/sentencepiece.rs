//! A SentencePiece vocabulary (Llama 2, Mistral, Gemma, Phi 3) as byte-pair encoding of the tokenizers library.
//!
//! SentencePiece merges the neighbours that make the piece with the best score; byte-pair encoding merges by a list.
//! So every way of making a piece of two others is a merge, in the order of the pieces' scores.

use std::{cmp::Reverse, collections::HashMap};

use serde_json::{Value, json};

use super::{
    GgufError,
    metadata::{Metadata, required},
    vocabulary::{CONTROL, Parts, UNKNOWN, USER_DEFINED, Vocabulary},
};

/// `tokenizer.ggml.token_type` of ordinary pieces.
const NORMAL: u64 = 1;
/// Of the 256 tokens that stand for a byte: `<0x0A>`.
const BYTE: u64 = 6;
/// Longest piece, in characters: each place where it could be split is looked at.
const MAX_PIECE: usize = 1024;
/// Bytes that may be looked at for that, over all pieces; a vocabulary of 262144 tokens has about 100 million.
const MAX_COMPARED: usize = 1 << 31;
/// Bytes of all merges together, as they are written; the same vocabulary has about 10 million.
const MAX_MERGES: usize = 48 << 20;
/// What a merge takes beside its two pieces when it is written.
const MERGE_FRAME: usize = 16;
/// What a space is in a piece.
const SPACE: &str = "▁";

/// A merge, before merges are put in order.
struct Merge<'a> {
    score: f64,
    left: &'a str,
    right: &'a str,
    ids: (u32, u32),
}

/// The parts of `tokenizer.json` that this kind of vocabulary decides.
pub(super) fn parts(metadata: &Metadata, vocabulary: &Vocabulary<'_>) -> Result<Parts, GgufError> {
    let key = "tokenizer.ggml.remove_extra_whitespaces";
    if metadata.boolean(key)? == Some(true) {
        return Err(GgufError::Unsupported(format!(
            "its tokenizer has `{key}`, which cannot be imported; import the original safetensors folder"
        )));
    }
    let scores = required(metadata.floats("tokenizer.ggml.scores")?, "tokenizer.ggml.scores")?;
    if scores.len() != vocabulary.tokens.len() {
        let reason = format!("{} tokens and {} scores", vocabulary.tokens.len(), scores.len());
        return Err(GgufError::Damaged(reason));
    }
    let of_kind = |kind: u64| vocabulary.types.iter().filter(move |other| **other == kind).count();
    let unknown = metadata.unsigned("tokenizer.ggml.unknown_token_id")?.unwrap_or(0);
    let unknown = usize::try_from(unknown).ok().and_then(|id| vocabulary.tokens.get(id));
    let unknown = unknown.ok_or_else(|| GgufError::Damaged("the unknown token is not a token".to_owned()))?;

    let prefix = metadata.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let to_space = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
    let mut normalizers = vec![to_space];
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": SPACE }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    Ok(Parts {
        normalizer: json!({ "type": "Sequence", "normalizers": normalizers }),
        pre_tokenizer: Value::Null,
        decoder: json!({ "type": "Sequence", "decoders": decoders }),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": of_kind(BYTE) == 256,
            "ignore_merges": false,
            "vocab": vocabulary.json(),
            "merges": merges(vocabulary, &scores)?,
        }),
        added: vec![CONTROL, USER_DEFINED, UNKNOWN],
        add_bos: true,
        add_eos: false,
    })
}

/// Every way of making a piece of two, the best piece first.
fn merges<'a>(vocabulary: &Vocabulary<'a>, scores: &[f64]) -> Result<Vec<[&'a str; 2]>, GgufError> {
    let normal = vocabulary.tokens.iter().zip(&vocabulary.types).zip(scores).zip(0_u32..);
    let normal = normal
        .filter(|(((_, kind), _), _)| **kind == NORMAL)
        .map(|(((token, _), score), id)| (*token, (*score, id)));
    let pieces: HashMap<&str, (f64, u32)> = normal.clone().collect();
    let mut merges = Vec::new();
    let (mut compared, mut written) = (0_usize, 0_usize);
    for (piece, (score, _)) in normal {
        let characters = piece.chars().count();
        if characters > MAX_PIECE {
            return Err(GgufError::Damaged(format!("a token has more than {MAX_PIECE} characters")));
        }
        compared = compared.saturating_add(characters * piece.len());
        if compared > MAX_COMPARED {
            return Err(GgufError::Damaged("its tokens are too long".to_owned()));
        }
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some((_, left_id)), Some((_, right_id))) = (pieces.get(left), pieces.get(right)) {
                // Before they are made: pieces that are beginnings of each other have cubically many.
                written += piece.len() + MERGE_FRAME;
                if written > MAX_MERGES {
                    return Err(GgufError::Damaged(format!(
                        "the ways to make its tokens of each other take more than {MAX_MERGES} bytes"
                    )));
                }
                merges.push(Merge { score, left, right, ids: (*left_id, *right_id) });
            }
        }
    }
    // Among ways to make pieces of one score: the longest beginning first, as the usual conversion has it.
    merges.sort_by(|a, b| {
        let key = |merge: &Merge<'_>| {
            (Reverse(merge.left.chars().count()), Reverse(merge.right.chars().count()), merge.ids)
        };
        b.score.total_cmp(&a.score).then_with(|| key(a).cmp(&key(b)))
    });
    Ok(merges.into_iter().map(|merge| [merge.left, merge.right]).collect())
}
