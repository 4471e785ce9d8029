//! The tokens that mean something: which text begins a sequence, which ids end a generation.
//!
//! transformers finds the texts in `tokenizer_config.json`; where that has no `added_tokens_decoder`, which is older than
//! 2023, `special_tokens_map.json` counts more. What neither has, the tokenizer's class decides.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    post_processor::{Setting, replacement},
    vocabulary::Vocabulary,
};

/// Most end tokens of a model. Chat models have up to ten; each token of each answer is looked up among them.
const MAX_END_TOKENS: usize = 256;
/// Most special tokens that have a name. Chat templates are given them all.
const MAX_SPECIAL_TOKENS: usize = 256;
/// The special tokens that every tokenizer of transformers may have. A model may name more of them: `image_token`, …
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
    /// The tokens that only the other files define, or that are not matched as a whole. transformers adds them to the
    /// tokenizer, in the order of their ids; those that the vocabulary has keep theirs.
    pub(super) fn additions(&self) -> Additions {
        let mut additions = Additions::default();
        let mut next = self.vocabulary.next_id();
        let special = self.special_texts();
        let mut known = BTreeSet::new();
        for (id, token) in self.defined() {
            let Some(text) = token_text(&token).filter(|text| !self.vocabulary.has_added(text)) else {
                continue;
            };
            let own = self.vocabulary.id(&text).map(u64::from);
            if own.is_none() && id != next {
                additions.misplaced.push((text, id));
                continue;
            }
            next += u64::from(own.is_none());
            additions.tokens.push(added_token(own.unwrap_or(id), &text, &token, special.contains_key(&text)));
            known.insert(text);
        }
        for (text, token) in &special {
            let id =
                self.vocabulary.id(text).filter(|_| !text.is_empty() && !self.vocabulary.has_added(text));
            if let Some(id) = id.filter(|_| !known.contains(text)) {
                additions.tokens.push(added_token(id.into(), text, token, true));
            }
        }
        additions
    }

    /// What has to be in the place of the post-processor, if the settings want another one.
    pub(super) fn post_processor(&self) -> Option<Value> {
        let token = |flag: &str, name: &str| {
            let add = self.tokenizer_config[flag].as_bool()?;
            Some(self.special_token(name).filter(|_| add))
        };
        let (bos, eos) = (token("add_bos_token", "bos_token"), token("add_eos_token", "eos_token"));
        let setting =
            Setting { bos: bos.as_ref().map(Option::as_deref), eos: eos.as_ref().map(Option::as_deref) };
        replacement(self.vocabulary.post_processor(), &setting, |text| self.id(text))
    }

    /// Ids and descriptions of added tokens outside of `tokenizer.json`.
    fn defined(&self) -> BTreeMap<u64, Value> {
        if let Some(decoder) = self.tokenizer_config["added_tokens_decoder"].as_object() {
            return decoder
                .iter()
                .filter_map(|(id, token)| Some((id.parse().ok()?, token.clone())))
                .collect();
        }
        let describe = |(text, id): (&String, &Value)| Some((id.as_u64()?, json!({ "content": text })));
        self.added_tokens.as_object().into_iter().flatten().filter_map(describe).collect()
    }

    /// Texts of the special tokens by their names: `bos_token`, …
    ///
    /// # Errors
    /// If there are too many.
    pub(super) fn special_tokens(&self) -> Result<BTreeMap<String, String>, String> {
        let named = self.named_special_tokens();
        if named.len() > MAX_SPECIAL_TOKENS {
            return Err(format!(
                "the model has {} named special tokens, more than {MAX_SPECIAL_TOKENS}; see tokenizer_config.json",
                named.len()
            ));
        }
        Ok(named)
    }

    fn named_special_tokens(&self) -> BTreeMap<String, String> {
        let common = SPECIAL.iter().filter_map(|name| Some(((*name).to_owned(), self.special_token(name)?)));
        let mut named: BTreeMap<String, String> = common.collect();
        for (name, token) in self.own_special_tokens() {
            named.entry(name.to_owned()).or_insert(token);
        }
        named
    }

    /// Those that the model names itself: `image_token`, …
    fn own_special_tokens(&self) -> impl Iterator<Item = (&str, String)> {
        let entries =
            |value: &'static str| self.special_files().filter_map(move |file| file[value].as_object());
        let listed = entries("extra_special_tokens").flatten();
        let single = self.special_files().filter_map(Value::as_object).flatten();
        let single = single.filter(|(name, _)| name.ends_with("_token") && !SPECIAL.contains(&name.as_str()));
        listed.chain(single).filter_map(|(name, token)| Some((name.as_str(), token_text(token)?)))
    }

    /// The files that name special tokens, the one that counts more first.
    fn special_files(&self) -> impl Iterator<Item = &Value> {
        let has_decoder = self.tokenizer_config.get("added_tokens_decoder").is_some();
        let map = (!has_decoder).then_some(self.special_tokens_map);
        map.into_iter().chain([self.tokenizer_config])
    }

    /// Descriptions of all special tokens by their texts, also of those without a name.
    fn special_texts(&self) -> BTreeMap<String, Value> {
        let named = self.named_special_tokens();
        let described = |name: &str| self.special_files().find_map(|file| file.get(name)).cloned();
        let mut texts: BTreeMap<String, Value> = BTreeMap::new();
        for (name, text) in named {
            let description = described(&name).unwrap_or_default();
            texts.entry(text).or_insert(description);
        }
        for list in ["extra_special_tokens", "additional_special_tokens"] {
            let tokens = self.special_files().filter_map(|file| file[list].as_array()).flatten();
            for token in tokens {
                if let Some(text) = token_text(token) {
                    texts.entry(text).or_insert_with(|| token.clone());
                }
            }
        }
        texts
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

/// A token as `tokenizer.json` describes it.
fn added_token(id: u64, text: &str, description: &Value, special: bool) -> Value {
    let flag = |key: &str, default: bool| description[key].as_bool().unwrap_or(default);
    let special = special || flag("special", false);
    json!({
        "id": id,
        "content": text,
        "single_word": flag("single_word", false),
        "lstrip": flag("lstrip", false),
        "rstrip": flag("rstrip", false),
        "normalized": flag("normalized", !special),
        "special": special,
    })
}

/// A token is written as its text, or as an object with `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}

fn token_id(value: &Value) -> Option<u32> {
    value.as_u64()?.try_into().ok()
}

#[cfg(test)]
mod tests;
