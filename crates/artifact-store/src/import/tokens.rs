//! The tokens that mean something: which text begins a sequence, which ids end a generation.
//!
//! transformers finds the texts in `tokenizer_config.json`; where that has no `added_tokens_decoder`, which is older than
//! 2023, `special_tokens_map.json` counts more. What neither has, the tokenizer's class decides.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::vocabulary::Vocabulary;

/// Most end tokens of a model. Chat models have up to ten; each token of each answer is looked up among them.
const MAX_END_TOKENS: usize = 256;
/// The texts that transformers gives to chat templates.
const SPECIAL: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Tokens of a tokenizer's class, where nothing else names them: class, then `bos_token`, `eos_token`, `unk_token`.
const CLASSES: [(&str, [Option<&str>; 3]); 5] = [
    ("LlamaTokenizer", [Some("<s>"), Some("</s>"), Some("<unk>")]),
    ("CodeLlamaTokenizer", [Some("<s>"), Some("</s>"), Some("<unk>")]),
    ("GemmaTokenizer", [Some("<bos>"), Some("<eos>"), Some("<unk>")]),
    ("GPT2Tokenizer", [Some("<|endoftext|>"), Some("<|endoftext|>"), Some("<|endoftext|>")]),
    ("Qwen2Tokenizer", [None, Some("<|endoftext|>"), Some("<|endoftext|>")]),
];

/// The files that say something about tokens. What a folder does not have is `null`.
pub(super) struct TokenFiles<'a> {
    pub(super) config: &'a Value,
    pub(super) generation_config: &'a Value,
    pub(super) tokenizer_config: &'a Value,
    pub(super) special_tokens_map: &'a Value,
    /// Text to id.
    pub(super) added_tokens: &'a Value,
    pub(super) vocabulary: &'a Vocabulary,
}

/// Tokens that `tokenizer.json` lacks.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Additions {
    /// As `tokenizer.json` describes them.
    pub(super) tokens: Vec<Value>,
    /// Text and id of those that can't be added, as another id would be theirs.
    pub(super) misplaced: Vec<(String, u64)>,
}

impl TokenFiles<'_> {
    /// The tokens that only the other files define. transformers adds them to the tokenizer, in the order of their ids.
    pub(super) fn additions(&self) -> Additions {
        let mut additions = Additions::default();
        let mut next = self.vocabulary.next_id();
        for (id, token) in self.defined() {
            let Some(text) = token_text(&token).filter(|text| self.vocabulary.id(text).is_none()) else {
                continue;
            };
            if id != next {
                additions.misplaced.push((text, id));
                continue;
            }
            next += 1;
            let flag = |key: &str, default: bool| token[key].as_bool().unwrap_or(default);
            let special = flag("special", false);
            additions.tokens.push(json!({
                "id": id,
                "content": text,
                "single_word": flag("single_word", false),
                "lstrip": flag("lstrip", false),
                "rstrip": flag("rstrip", false),
                "normalized": flag("normalized", !special),
                "special": special,
            }));
        }
        additions
    }

    /// Ids and descriptions of added tokens outside of `tokenizer.json`.
    fn defined(&self) -> BTreeMap<u64, Value> {
        if let Some(decoder) = self.tokenizer_config["added_tokens_decoder"].as_object() {
            return decoder
                .iter()
                .filter_map(|(id, token)| Some((id.parse().ok()?, token.clone())))
                .collect();
        }
        let special: BTreeSet<String> = self.special_tokens().into_values().collect();
        let describe = |(text, id): (&String, &Value)| {
            Some((id.as_u64()?, json!({ "content": text, "special": special.contains(text) })))
        };
        self.added_tokens.as_object().into_iter().flatten().filter_map(describe).collect()
    }

    /// Texts of the special tokens by their names: `bos_token`, …
    pub(super) fn special_tokens(&self) -> BTreeMap<String, String> {
        let found = SPECIAL.iter().filter_map(|name| Some(((*name).to_owned(), self.special_token(name)?)));
        found.collect()
    }

    /// Every end token that any of the files names.
    ///
    /// # Errors
    /// If there are too many.
    pub(super) fn end_tokens(&self) -> Result<Vec<u32>, String> {
        let mut ids = BTreeSet::new();
        for config in [self.generation_config, self.config, &self.config["text_config"]] {
            match &config["eos_token_id"] {
                Value::Array(several) => ids.extend(several.iter().filter_map(token_id)),
                one => ids.extend(token_id(one)),
            }
        }
        ids.extend(self.special_token("eos_token").and_then(|text| self.id(&text)));
        if ids.len() > MAX_END_TOKENS {
            return Err(format!(
                "the model has {} end tokens, more than {MAX_END_TOKENS}; see `eos_token_id` in config.json and \
                 generation_config.json",
                ids.len()
            ));
        }
        Ok(ids.into_iter().collect())
    }

    fn special_token(&self, name: &str) -> Option<String> {
        let configured = self.tokenizer_config.get(name);
        let mapped = self.special_tokens_map.get(name);
        let has_decoder = self.tokenizer_config.get("added_tokens_decoder").is_some();
        let value = if has_decoder { configured } else { mapped.or(configured) };
        match value {
            Some(value) => token_text(value),
            None => self.default_token(name),
        }
    }

    /// What the tokenizer's class has, if it is a token of this model.
    fn default_token(&self, name: &str) -> Option<String> {
        let place = SPECIAL.iter().position(|other| *other == name)?;
        let named = [&self.tokenizer_config["tokenizer_class"], &self.config["tokenizer_class"]];
        let named = named.into_iter().find_map(Value::as_str).map(|class| class.trim_end_matches("Fast"));
        let class = named.or(match self.config["model_type"].as_str() {
            Some("llama") => Some("LlamaTokenizer"),
            _ => None,
        })?;
        let (_, tokens) = CLASSES.iter().find(|(known, _)| *known == class)?;
        let text = (*tokens.get(place)?)?;
        self.vocabulary.id(text).map(|_| text.to_owned())
    }

    /// The id of a token, wherever it is defined.
    fn id(&self, text: &str) -> Option<u32> {
        let decoder = self.tokenizer_config["added_tokens_decoder"].as_object();
        let in_decoder = || {
            let mut named = decoder?.iter().filter(|(_, token)| token_text(token).as_deref() == Some(text));
            named.next()?.0.parse().ok()
        };
        let added = || token_id(self.added_tokens.get(text)?);
        self.vocabulary.id(text).or_else(in_decoder).or_else(added)
    }
}

/// A token is written as its text, or as an object with `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}

fn token_id(value: &Value) -> Option<u32> {
    value.as_u64()?.try_into().ok()
}

#[cfg(test)]
mod tests {
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
        with_files(files, |files| files.special_tokens().remove(name))
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
            (
                json!({ "tokenizer": { "eos_token": { "__type": "AddedToken", "content": "<end>" } } }),
                vec![3],
            ),
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

        let older =
            additions(&json!({ "tokenizer": { "eos_token": "<x>" }, "added": { "<x>": 4, "<end>": 3 } }));
        assert_eq!((older.tokens.len(), &older.tokens[0]["special"]), (1, &json!(true)));
        assert_eq!(additions(&json!({})), Additions::default());
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
        assert_eq!(special(&llama, "unk_token"), None, "it is no token of this model");
        let none = json!({ "tokenizer": { "tokenizer_class": "LlamaTokenizer", "bos_token": null } });
        assert_eq!(special(&none, "bos_token"), None);
        let plain = json!({ "config": { "model_type": "llama" }, "tokenizer": { "tokenizer_class": "PreTrainedTokenizerFast" } });
        assert_eq!(special(&plain, "bos_token"), None);
        let untold = json!({ "config": { "model_type": "llama" } });
        assert_eq!(special(&untold, "eos_token").as_deref(), Some("</s>"));
    }
}
