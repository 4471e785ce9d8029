#![allow(clippy::unwrap_used)]

use super::*;

/// Words, a special token, and the bytes of a character.
fn emitter(stops: &[&str]) -> (Emitter, impl Fn(&str) -> u32) {
    let tokens = ["<unk>", "<|end|>", "Ġone", "Ġtwo", "â", "Ĥ¬", "on", "<|", "end", "|>"];
    let vocab =
        tokens.iter().enumerate().map(|(id, token)| format!("{token:?}: {id}")).collect::<Vec<_>>().join(",");
    let file = format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": {{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
        "use_regex": true}}, "added_tokens": [{{"id": 1, "content": "<|end|>", "special": true, "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false}}], "model": {{"type": "BPE", "vocab": {{{vocab}}},
        "merges": []}}}}"#
    );
    let tokenizer = Arc::new(Tokenizer::from_bytes(file).unwrap());
    let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
    let emitter = Emitter::new(Arc::clone(&tokenizer), &stops);
    (emitter, move |token: &str| tokenizer.token_to_id(token).unwrap())
}

fn emitted(stops: &[&str], tokens: &[&str]) -> (String, Option<FinishReason>) {
    let (mut emitter, id) = emitter(stops);
    let mut text = String::new();
    for token in tokens {
        let (chunk, reason) = emitter.push(id(token)).unwrap();
        text.push_str(&chunk.text);
        if reason.is_some() {
            return (text, reason);
        }
    }
    let (rest, reason) = emitter.finish().unwrap();
    (text + &rest, reason)
}

#[test]
fn a_stop_string_that_is_a_special_token_stops_there() {
    let stop = Some(FinishReason::Stop);
    assert_eq!(emitted(&["<|end|>"], &["Ġone", "<|end|>", "Ġtwo"]), (" one".into(), stop));
    assert_eq!(emitted(&["one<|end|>"], &["Ġone", "<|end|>", "Ġtwo"]), (" ".into(), stop));
    assert_eq!(emitted(&["<|end|> t"], &["Ġone", "<|end|>", "Ġtwo"]), (" one".into(), stop));
    assert_eq!(emitted(&["<|end|>"], &["Ġone", "<|", "end", "|>"]), (" one".into(), stop));
    assert_eq!(emitted(&["end"], &["Ġone", "<|end|>", "Ġtwo"]), (" one two".into(), None));
    assert_eq!(emitted(&[], &["Ġone", "<|end|>", "Ġtwo"]), (" one two".into(), None));
    assert_eq!(emitted(&["<|end|>"], &["on", "â", "<|end|>"]), ("on\u{fffd}".into(), stop));
}

#[test]
fn a_stop_string_in_what_was_held_back_is_found_at_the_end() {
    assert_eq!(emitted(&["\u{fffd}"], &["on", "â"]), ("on".into(), Some(FinishReason::Stop)));
    assert_eq!(emitted(&["ne", "one two"], &["Ġone"]), (" o".into(), Some(FinishReason::Stop)));
}
