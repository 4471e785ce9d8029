//! The tokens that a tokenizer writes around a text: what `tokenizer.json` says, and what `add_bos_token` and
//! `add_eos_token` in `tokenizer_config.json` say instead. transformers follows the settings.

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// As `tokenizer.json` describes it, as far as it writes tokens.
#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
pub(super) enum PostProcessor {
    /// Offsets only.
    ByteLevel,
    TemplateProcessing {
        single: Vec<Piece>,
    },
    BertProcessing {
        cls: (String, u32),
        sep: (String, u32),
    },
    RobertaProcessing {
        cls: (String, u32),
        sep: (String, u32),
    },
    Sequence {
        processors: Vec<PostProcessor>,
    },
    #[serde(other)]
    Other,
}

/// A part of a template.
#[derive(Debug, Deserialize)]
pub(super) enum Piece {
    SpecialToken { id: String },
    Sequence {},
}

/// Texts of the tokens around a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Around {
    before: Vec<String>,
    after: Vec<String>,
}

/// What the settings say: the token to write, none, or nothing at all.
#[derive(Debug, Default)]
pub(super) struct Setting<'a> {
    pub(super) bos: Option<Option<&'a str>>,
    pub(super) eos: Option<Option<&'a str>>,
}

impl PostProcessor {
    /// `None`: it can't be told.
    fn around(&self) -> Option<Around> {
        Some(match self {
            Self::ByteLevel => Around::default(),
            Self::BertProcessing { cls, sep } | Self::RobertaProcessing { cls, sep } => {
                Around { before: vec![cls.0.clone()], after: vec![sep.0.clone()] }
            }
            Self::TemplateProcessing { single } => {
                let token = |piece: &Piece| match piece {
                    Piece::SpecialToken { id } => Some(id.clone()),
                    Piece::Sequence {} => None,
                };
                let text = single.iter().position(|piece| token(piece).is_none())?;
                let (before, after) = single.split_at(text);
                let after: Option<Vec<_>> = after.iter().skip(1).map(token).collect();
                Around { before: before.iter().filter_map(token).collect(), after: after? }
            }
            Self::Sequence { processors } => {
                let mut all = Around::default();
                for processor in processors {
                    let mut around = processor.around()?;
                    around.before.append(&mut all.before);
                    all.before = around.before;
                    all.after.append(&mut around.after);
                }
                all
            }
            Self::Other => return None,
        })
    }
}

/// The post-processor to put in the place of `present`, if the settings want another. `id` finds the ids of tokens.
pub(super) fn replacement(
    present: Option<&PostProcessor>,
    setting: &Setting<'_>,
    id: impl Fn(&str) -> Option<u32>,
) -> Option<Value> {
    let present = present.map_or_else(|| Some(Around::default()), PostProcessor::around)?;
    let mut wanted = present.clone();
    for (tokens, setting) in [(&mut wanted.before, setting.bos), (&mut wanted.after, setting.eos)] {
        if let Some(token) = setting {
            *tokens = token.map(str::to_owned).into_iter().collect();
        }
    }
    if wanted == present {
        return None;
    }
    let mut tokens = Map::new();
    for text in wanted.before.iter().chain(&wanted.after) {
        tokens.insert(text.clone(), json!({ "id": text, "ids": [id(text)?], "tokens": [text] }));
    }
    let single = |name: &str, kind: u8| -> Vec<Value> {
        let token = |text: &String| json!({ "SpecialToken": { "id": text, "type_id": kind } });
        let text = json!({ "Sequence": { "id": name, "type_id": kind } });
        wanted.before.iter().map(token).chain([text]).chain(wanted.after.iter().map(token)).collect()
    };
    let pair: Vec<Value> = single("A", 0).into_iter().chain(single("B", 1)).collect();
    Some(json!({
        "type": "TemplateProcessing", "single": single("A", 0), "pair": pair, "special_tokens": tokens,
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn replaced(present: &Value, bos: Option<Option<&str>>, eos: Option<Option<&str>>) -> Option<Value> {
        let present: Option<PostProcessor> = serde_json::from_value(present.clone()).unwrap();
        let id = |text: &str| ["<s>", "</s>", "[CLS]", "[SEP]"].iter().position(|it| *it == text);
        replacement(present.as_ref(), &Setting { bos, eos }, |text| id(text).map(|id| id as u32))
    }

    /// Texts of the pieces.
    fn single(replacement: Option<Value>) -> Vec<String> {
        let pieces = replacement.unwrap()["single"].as_array().unwrap().clone();
        let text =
            |piece: &Value| piece.pointer("/SpecialToken/id").or(piece.pointer("/Sequence/id")).cloned();
        pieces.iter().map(|piece| text(piece).unwrap().as_str().unwrap().to_owned()).collect()
    }

    fn template(tokens: &[&str]) -> Value {
        let piece = |id: &&str| match *id {
            "A" => json!({ "Sequence": { "id": "A", "type_id": 0 } }),
            id => json!({ "SpecialToken": { "id": id, "type_id": 0 } }),
        };
        let single: Vec<Value> = tokens.iter().map(piece).collect();
        json!({ "type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {} })
    }

    #[test]
    fn what_the_settings_say_counts() {
        let bytes =
            json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true });
        let bos = Some(Some("<s>"));
        for present in [&Value::Null, &bytes, &json!({ "type": "Sequence", "processors": [bytes] })] {
            assert_eq!(single(replaced(present, bos, None)), ["<s>", "A"]);
            assert_eq!(single(replaced(present, bos, Some(Some("</s>")))), ["<s>", "A", "</s>"]);
            for off in [None, Some(None)] {
                assert_eq!(replaced(present, off, off), None, "as it is");
            }
        }
        let both = json!({ "type": "Sequence", "processors": [bytes, template(&["<s>", "A", "</s>"])] });
        assert_eq!(replaced(&both, bos, None), None);
        assert_eq!(single(replaced(&both, Some(None), None)), ["A", "</s>"]);
        assert_eq!(single(replaced(&both, None, Some(None))), ["<s>", "A"]);
        let bert = json!({ "type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2] });
        assert_eq!(replaced(&bert, None, None), None);
        assert_eq!(single(replaced(&bert, bos, None)), ["<s>", "A", "[SEP]"]);
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        let bos = Some(Some("<s>"));
        for present in [
            json!({ "type": "Other" }),
            template(&["<s>"]),
            template(&["A", "A"]),
            json!({ "type": "Sequence", "processors": [{ "type": "Other" }] }),
        ] {
            assert_eq!(replaced(&present, bos, Some(None)), None, "{present}");
        }
        assert_eq!(
            replaced(&Value::Null, Some(Some("<nowhere>")), None),
            None,
            "this model does not have it"
        );
        let new = replaced(&Value::Null, bos, None).unwrap();
        assert_eq!(new["special_tokens"]["<s>"]["ids"], json!([0]));
        assert_eq!(new["pair"].as_array().unwrap().len(), 4);
    }
}
