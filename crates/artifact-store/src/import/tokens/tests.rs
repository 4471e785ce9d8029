#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;

/// A tokenizer with `<s>` (1), `</s>` (2) and `<end>` (3); the other files are those that are given.
fn with_files<T>(files: &Value, look: impl FnOnce(&TokenFiles<'_>) -> T) -> T {
    let added = json!([{ "id": 3, "content": "<end>" }]);
    let tokenizer = json!({ "model": { "vocab": { "<s>": 1, "</s>": 2 } }, "added_tokens": added });
    look(&TokenFiles {
        config: &files["config"],
        generation_config: &files["generation"],
        tokenizer_config: &files["tokenizer"],
        special_tokens_map: &files["map"],
        added_tokens: &files["added"],
        vocabulary: &Vocabulary::read(tokenizer.to_string().as_bytes()).unwrap(),
    })
}

fn end_tokens(files: &Value) -> Vec<u32> {
    with_files(files, |files| files.end_tokens()).unwrap()
}

fn special(files: &Value, name: &str) -> Option<String> {
    with_files(files, |files| files.special_tokens().unwrap().remove(name))
}

#[test]
fn end_tokens_are_found_wherever_they_are_defined() {
    let cases = [
        (
            json!({ "config": { "eos_token_id": 7 }, "generation": { "eos_token_id": [9, 8, 9] } }),
            vec![7, 8, 9],
        ),
        (json!({ "config": { "text_config": { "eos_token_id": [5] }, "eos_token_id": null } }), vec![5]),
        (json!({ "tokenizer": { "eos_token": "</s>" } }), vec![2]),
        (json!({ "tokenizer": { "eos_token": { "__type": "AddedToken", "content": "<end>" } } }), vec![3]),
        (json!({ "map": { "eos_token": { "content": "<end>" } } }), vec![3]),
        (
            json!({ "tokenizer": { "eos_token": "<x>", "added_tokens_decoder": { "12": { "content": "<x>" } } } }),
            vec![12],
        ),
        (json!({ "tokenizer": { "eos_token": "<x>" }, "added": { "<x>": 13 } }), vec![13]),
        (json!({ "tokenizer": { "eos_token": "<nowhere>" } }), vec![]),
        (json!({ "config": { "eos_token_id": [-1, 1.5, "2", true, 4_294_967_296_u64] } }), vec![]),
    ];
    for (files, expected) in cases {
        assert_eq!(end_tokens(&files), expected, "{files}");
    }
}

#[test]
fn tokens_that_only_other_files_define_are_added() {
    let additions = |files: &Value| with_files(files, |files| files.additions());
    let decoder = json!({
        "5": { "content": "<b>", "special": false, "lstrip": true }, "4": { "content": "<a>", "special": true },
        "3": { "content": "<end>" }, "9": { "content": "<far>" },
    });
    let found =
        additions(&json!({ "tokenizer": { "added_tokens_decoder": decoder }, "added": { "<x>": 6 } }));
    let texts: Vec<_> =
        found.tokens.iter().map(|token| (token["id"].as_u64(), token["content"].as_str())).collect();
    assert_eq!(texts, [(Some(4), Some("<a>")), (Some(5), Some("<b>"))]);
    assert_eq!(found.misplaced, [("<far>".to_owned(), 9)]);
    let flags =
        |token: &Value| ["special", "normalized", "lstrip"].map(|flag| token[flag].as_bool().unwrap());
    assert_eq!(
        (flags(&found.tokens[0]), flags(&found.tokens[1])),
        ([true, false, false], [false, true, true])
    );

    let older = additions(&json!({ "tokenizer": { "eos_token": "<x>" }, "added": { "<x>": 4, "<end>": 3 } }));
    assert_eq!((older.tokens.len(), &older.tokens[0]["special"]), (1, &json!(true)));
    assert_eq!(additions(&json!({})), Additions::default());
}

/// As transformers adds them: a token that is matched as a whole, with the id that it has.
#[test]
fn special_tokens_that_are_only_in_the_vocabulary_are_added() {
    let additions = |files: &Value| with_files(files, |files| files.additions());
    let found = additions(&json!({ "tokenizer": {
        "bos_token": "<s>", "eos_token": "<end>", "pad_token": "<nowhere>",
        "extra_special_tokens": [{ "content": "</s>", "lstrip": true, "normalized": true }],
    } }));
    let described = |token: &Value| {
        (
            token["id"].as_u64().unwrap(),
            ["special", "normalized", "lstrip"].map(|flag| token[flag].as_bool().unwrap()),
        )
    };
    let tokens: Vec<_> = found.tokens.iter().map(described).collect();
    assert_eq!(tokens, [(2, [true, true, true]), (1, [true, false, false])]);
    assert_eq!(found.misplaced, []);

    let decoder = json!({ "7": { "content": "<s>" }, "4": { "content": "<new>" } });
    let found = additions(&json!({ "tokenizer": { "bos_token": "<s>", "added_tokens_decoder": decoder } }));
    let tokens: Vec<_> = found.tokens.iter().map(described).collect();
    assert_eq!(tokens, [(4, [false, true, false]), (1, [true, false, false])], "its own id");
}

#[test]
fn a_model_may_name_special_tokens_itself() {
    let files = json!({ "tokenizer": {
        "image_token": { "content": "<image>" }, "add_bos_token": true, "model_token": null,
        "extra_special_tokens": { "think_token": "<think>", "image_token": "<picture>" },
    } });
    assert_eq!(special(&files, "image_token").as_deref(), Some("<picture>"));
    assert_eq!(special(&files, "think_token").as_deref(), Some("<think>"));
    assert_eq!(special(&files, "add_bos_token"), None);
    assert_eq!(special(&files, "model_token"), None);
    let many: serde_json::Map<String, Value> =
        (0..=MAX_SPECIAL_TOKENS).map(|n| (format!("t{n}_token"), json!("<x>"))).collect();
    let refused = with_files(&json!({ "tokenizer": many }), |files| files.special_tokens());
    assert!(refused.unwrap_err().contains("257 named special tokens"));
}

#[test]
fn the_settings_say_whether_a_text_begins_with_bos() {
    let single = |files: Value| {
        with_files(&files, |files| files.post_processor()).map(|it| it["single"].as_array().unwrap().len())
    };
    assert_eq!(single(json!({ "tokenizer": { "bos_token": "<s>", "add_bos_token": true } })), Some(2));
    assert_eq!(single(json!({ "tokenizer": { "bos_token": "<s>", "add_bos_token": false } })), None);
    assert_eq!(single(json!({ "tokenizer": { "bos_token": "<s>" } })), None);
    assert_eq!(single(json!({ "tokenizer": { "bos_token": null, "add_bos_token": true } })), None);
}

#[test]
fn too_many_end_tokens_are_refused() {
    let list = |len: usize| json!({ "config": { "eos_token_id": (0..len).collect::<Vec<_>>() } });
    assert_eq!(end_tokens(&list(MAX_END_TOKENS)).len(), MAX_END_TOKENS);
    let refused = with_files(&list(MAX_END_TOKENS + 1), |files| files.end_tokens());
    assert!(refused.unwrap_err().contains("257 end tokens"));
    let repeated = json!({ "config": { "eos_token_id": vec![3; 100_000] } });
    assert_eq!(end_tokens(&repeated), [3]);
}

#[test]
fn the_older_map_counts_more_only_without_a_decoder() {
    let old =
        json!({ "tokenizer": { "bos_token": "<a>" }, "map": { "bos_token": "<b>", "pad_token": "<p>" } });
    assert_eq!(special(&old, "bos_token").as_deref(), Some("<b>"));
    assert_eq!(special(&old, "pad_token").as_deref(), Some("<p>"));
    let new = json!({
        "tokenizer": { "bos_token": "<a>", "added_tokens_decoder": {} }, "map": { "bos_token": "<b>", "pad_token": "<p>" }
    });
    assert_eq!(special(&new, "bos_token").as_deref(), Some("<a>"));
    assert_eq!(special(&new, "pad_token"), None);
}

#[test]
fn a_class_has_tokens_where_nothing_else_names_them() {
    let llama = json!({ "tokenizer": { "tokenizer_class": "LlamaTokenizerFast" } });
    assert_eq!(special(&llama, "bos_token").as_deref(), Some("<s>"));
    assert_eq!(end_tokens(&llama), [2]);
    assert_eq!(special(&llama, "unk_token"), None, "this model does not have it");
    let none = json!({ "tokenizer": { "tokenizer_class": "LlamaTokenizer", "bos_token": null } });
    assert_eq!(special(&none, "bos_token"), None);
    let plain = json!({ "config": { "model_type": "llama" }, "tokenizer": { "tokenizer_class": "PreTrainedTokenizerFast" } });
    assert_eq!(special(&plain, "bos_token"), None);
    let untold = json!({ "config": { "model_type": "llama" } });
    assert_eq!(special(&untold, "eos_token").as_deref(), Some("</s>"));
}
