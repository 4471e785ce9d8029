#![allow(clippy::unwrap_used)]

use proptest::{prelude::*, sample::Index};
use serde_json::json;

use super::*;

/// A tokenizer of the tokens, of which those in angle brackets with a bar are special.
fn tokenizer(model: &str, tokens: &[&str], decoder: Value) -> Tokenizer {
    let special = |token: &str| token.starts_with("<|");
    let vocab = tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), id.into()));
    let vocab: serde_json::Map<String, Value> = vocab.collect();
    let added: Vec<Value> = tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| special(token))
        .map(|(id, token)| {
            json!({"id": id, "content": token, "special": true, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false})
        })
        .collect();
    let model = match model {
        "Unigram" => {
            let vocab: Vec<Value> = tokens.iter().map(|token| json!([token, -1.0])).collect();
            json!({"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": false})
        }
        "BPE" => json!({"type": "BPE", "vocab": vocab, "merges": []}),
        "WordPiece" => {
            json!({"type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                   "max_input_chars_per_word": 100})
        }
        other => json!({"type": other, "vocab": vocab, "unk_token": "<unk>"}),
    };
    let file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
                      "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
                      "model": model});
    Tokenizer::from_bytes(serde_json::to_vec(&file).unwrap()).unwrap()
}

fn sequence(decoders: &[Value]) -> Value {
    json!({"type": "Sequence", "decoders": decoders})
}

/// A small tokenizer of each family, with special tokens, spaces, parts of characters and whatever else its decoder
/// treats in a way of its own.
fn families() -> Vec<(&'static str, Tokenizer)> {
    let replace =
        |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let strip =
        |start: u32, stop: u32| json!({"type": "Strip", "content": " ", "start": start, "stop": stop});
    let (fuse, fallback) = (json!({"type": "Fuse"}), json!({"type": "ByteFallback"}));
    // In the alphabet of byte-level tokenizers "Ġ" is a space, "âĤ¬" the bytes of "€", "ðŁĺĢ" those of an emoji.
    let bytes = [
        "<|end|>", "Ġ", "Ġa", "b", "â", "Ĥ", "¬", "âĤ", "Ĥ¬", "¬â", "ð", "ŁĺĢ", "ðŁ", "ĺĢ", "ï¿½", "ÿ",
        "<|x|>", "Ċ",
    ];
    let pieces = [
        "<unk>", "<|s|>", "▁", "▁a", "b", "▁▁", "<0xE2>", "<0x82>", "<0xAC>", "<0x41>", "<0xFF>", "<0x20>",
        "é", "<|x|>", "\u{fffd}", ".",
    ];
    let words = [
        "[UNK]", "<|CLS|>", "a", "##b", "b", ".", ",", "'", "n't", "##'", "do", "not", "'s", "<|SEP|>", "##",
    ];
    let plain = ["<unk>", "<|s|>", "w1", "w2", "", " ", "<|x|>"];
    let ends = ["<unk>", "<|s|>", "a</w>", "b", "c</w>", "</w>", "<|x|>"];
    let metaspace = |scheme: &str| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    let word_piece = |cleanup: bool| json!({"type": "WordPiece", "prefix": "##", "cleanup": cleanup});
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    vec![
        ("byte level", tokenizer("BPE", &bytes, byte_level.clone())),
        ("byte level in a sequence", tokenizer("BPE", &bytes, sequence(&[byte_level]))),
        (
            "byte level, then a replacement",
            tokenizer(
                "BPE",
                &bytes,
                sequence(&[
                    json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
                    replace(" a", "A"),
                ]),
            ),
        ),
        (
            "Llama",
            tokenizer(
                "BPE",
                &pieces,
                sequence(&[replace("▁", " "), fallback.clone(), fuse.clone(), strip(1, 0)]),
            ),
        ),
        ("Gemma", tokenizer("BPE", &pieces, sequence(&[replace("▁", " "), fallback.clone(), fuse.clone()]))),
        (
            "stripped twice",
            tokenizer("BPE", &pieces, sequence(&[replace("▁", " "), fallback, fuse, strip(2, 0)])),
        ),
        ("Unigram", tokenizer("Unigram", &pieces, metaspace("always"))),
        ("Unigram, first word", tokenizer("Unigram", &pieces, metaspace("first"))),
        ("Unigram, never", tokenizer("Unigram", &pieces, metaspace("never"))),
        ("WordPiece", tokenizer("WordPiece", &words, word_piece(true))),
        ("WordPiece, not cleaned up", tokenizer("WordPiece", &words, word_piece(false))),
        ("WordLevel", tokenizer("WordLevel", &plain, Value::Null)),
        ("BPE with ends of words", tokenizer("BPE", &ends, json!({"type": "BPEDecoder", "suffix": "</w>"}))),
        (
            "CTC",
            tokenizer(
                "WordLevel",
                &["<unk>", "<|s|>", "<pad>", "|", "a", "b", ".", "n't"],
                json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true}),
            ),
        ),
    ]
}

fn streamed(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer);
    let mut text = String::new();
    for &token in tokens {
        if let Decoded::Text(piece) = detokenizer.push(tokenizer, token).unwrap() {
            text.push_str(&piece);
        }
    }
    text + &detokenizer.finish(tokenizer).unwrap()
}

/// What the tokenizer makes of the whole output. Some decoders panic if there is nothing to decode.
fn decoded(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    let shown = |&&token: &&u32| {
        let text = tokenizer.id_to_token(token);
        text.is_some_and(|text| !tokenizer.get_added_vocabulary().is_special_token(&text))
    };
    if tokens.iter().any(|token| shown(&token)) {
        tokenizer.decode(tokens, true).unwrap()
    } else {
        String::new()
    }
}

fn ids(tokenizer: &Tokenizer, tokens: &[&str]) -> Vec<u32> {
    tokens.iter().map(|token| tokenizer.token_to_id(token).unwrap()).collect()
}

#[test]
fn text_after_a_special_token_keeps_its_leading_space() {
    let families = families();
    let family = |name: &str| &families.iter().find(|family| family.0 == name).unwrap().1;
    for (name, tokens, text) in [
        ("WordLevel", &["w1", "<|x|>", "w2"][..], "w1 w2"),
        ("Llama", &["▁a", "<|x|>", "▁a"], "a a"),
        ("Unigram", &["▁a", "<|x|>", "<|x|>", "▁a"], "a a"),
        ("WordPiece", &["a", "<|SEP|>", "do", "n't"], "a don't"),
        ("byte level", &["b", "<|x|>", "Ġa"], "b a"),
        ("BPE with ends of words", &["a</w>", "<|x|>", "c</w>"], "a c"),
    ] {
        let tokenizer = family(name);
        let tokens = ids(tokenizer, tokens);
        assert_eq!(tokenizer.decode(&tokens, true).unwrap(), text, "{name}");
        assert_eq!(streamed(tokenizer, &tokens), text, "{name}");
    }
}

#[test]
fn a_character_comes_when_it_is_complete() {
    let families = families();
    let tokenizer = &families[0].1;
    let mut detokenizer = Detokenizer::new(tokenizer);
    let mut pieces = Vec::new();
    for token in ids(tokenizer, &["b", "â", "<|x|>", "Ĥ", "¬", "Ġa"]) {
        pieces.push(detokenizer.push(tokenizer, token).unwrap());
    }
    let text = |text: &str| Decoded::Text(text.into());
    let special = Decoded::Special("<|x|>".into());
    assert_eq!(pieces, [text("b"), text(""), special, text(""), text("€"), text(" a")]);
}

#[test]
fn a_decoder_that_panics_fails_its_sequence_alone() {
    let strip = json!({"type": "Strip", "content": "a", "start": 0, "stop": 3});
    let tokenizer = tokenizer("BPE", &["a"], strip);
    assert!(Detokenizer::new(&tokenizer).push(&tokenizer, 0).is_err());
}

#[test]
fn the_window_does_not_grow() {
    for (name, tokenizer) in families() {
        for token in 0..tokenizer.get_vocab_size(true) as u32 {
            let mut detokenizer = Detokenizer::new(&tokenizer);
            for _ in 0..200 {
                detokenizer.push(&tokenizer, token).unwrap();
            }
            let text = tokenizer.id_to_token(token).unwrap();
            // Tokens without any text can't be told apart from what comes before a first one, and bytes wait.
            let empty = decoded(&tokenizer, &[token; 8]).is_empty();
            if !empty && !detokenizer.is_byte(&text) {
                assert!(detokenizer.window.len() <= 2 * CONTEXT, "{name}: {text}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn pieces_are_the_whole_output(family in any::<Index>(), tokens in prop::collection::vec(any::<Index>(), 0..60)) {
        thread_local!(static FAMILIES: Vec<(&'static str, Tokenizer)> = families());
        FAMILIES.with(|families| {
            let (name, tokenizer) = family.get(families);
            // One more than there are: ids without a token.
            let size = tokenizer.get_vocab_size(true) + 1;
            let tokens: Vec<u32> = tokens.iter().map(|token| token.index(size) as u32).collect();
            let whole = decoded(tokenizer, &tokens);
            prop_assert_eq!(streamed(tokenizer, &tokens), whole, "{}: {:?}", name, tokens);
            Ok(())
        })?;
    }
}
