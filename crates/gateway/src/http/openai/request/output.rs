//! What the output has to be: OpenAI's `response_format`, and the fields of vLLM and llama.cpp that constrain it.

mod schema;

use serde::Deserialize;

pub(super) use self::schema::Schema;
use super::fields::Fields;
use crate::{
    http::{
        error::ApiError,
        json::{Flag, Object, Probe, Text, field, unsupported},
    },
    serve::{Constraint, ConstraintKind},
};

/// OpenAI's; `schema` beside the type is llama.cpp's.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ResponseFormat {
    #[serde(rename = "type")]
    kind: Option<Text>,
    json_schema: Option<Object<NamedSchema>>,
    schema: Option<Schema>,
}

/// Its name and description are for models that are trained on them. Every schema is kept to, strict or not.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NamedSchema {
    schema: Option<Schema>,
    #[serde(rename = "name")]
    _name: Option<Text>,
    #[serde(rename = "description")]
    _description: Option<Text>,
    #[serde(rename = "strict")]
    _strict: Option<Flag>,
}

/// vLLM's.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct StructuredOutputs {
    json: Option<Schema>,
    regex: Option<Text>,
    choice: Option<Vec<Text>>,
    grammar: Option<Text>,
    json_object: Option<Flag>,
    structural_tag: Probe,
    whitespace_pattern: Probe,
    disable_any_whitespace: Option<Flag>,
    disable_additional_properties: Option<Flag>,
    /// Whether another library may be used: here is one only.
    #[serde(rename = "disable_fallback")]
    _disable_fallback: Option<Flag>,
}

/// What a field asks for, if it asks for anything.
type Asked = Option<Constraint>;

impl Fields {
    /// What the output has to be: at most one field may say so.
    pub(super) fn output(&mut self) -> Result<Asked, ApiError> {
        let mut asked = Vec::from([
            self.response_format.take().map(|Object(format)| format.check()).transpose()?.flatten(),
            schema("guided_json", self.guided_json.take()),
            regex("guided_regex", self.guided_regex.take()),
            choice("guided_choice", self.guided_choice.take()),
            grammar("guided_grammar", self.guided_grammar.take()),
            regex("regex", self.regex.take()),
            choice("choice", self.choice.take()),
            schema("json_schema", self.json_schema.take()),
            grammar("grammar", self.grammar.take()),
        ]);
        if let Some(Object(outputs)) = self.structured_outputs.take() {
            asked.extend(outputs.check()?);
        }
        let mut asked = asked.into_iter().flatten();
        let Some(constraint) = asked.next() else { return Ok(None) };
        if let Some(second) = asked.next() {
            let first = &constraint.param;
            return Err(field(
                &second.param,
                format!("`{first}` constrains the output already: send one of them"),
            ));
        }
        check_size(&constraint)?;
        Ok(Some(constraint))
    }
}

impl ResponseFormat {
    fn check(self) -> Result<Asked, ApiError> {
        let Some(Text(kind)) = self.kind else { return Err(field("response_format.type", "is required")) };
        let named = self.json_schema.and_then(|Object(named)| named.schema);
        let param = match (kind.as_str(), &named, &self.schema) {
            ("text", None, None) => return Ok(None),
            ("json_object", None, None) => return Ok(asked("response_format", ConstraintKind::JsonObject)),
            ("json_object", None, Some(_)) => "response_format.schema",
            ("json_schema", Some(_), None) => "response_format.json_schema.schema",
            ("json_schema", None, None) => {
                return Err(field("response_format.json_schema.schema", "is required"));
            }
            ("text" | "json_object" | "json_schema", ..) => {
                return Err(field("response_format", format!("has a schema where `{kind}` has none")));
            }
            _ => {
                return Err(unsupported(
                    "response_format.type",
                    "a format other than text, json_object and json_schema",
                ));
            }
        };
        match schema(param, named.or(self.schema)) {
            None => Err(field(param, "is empty")),
            asked => Ok(asked),
        }
    }
}

impl StructuredOutputs {
    fn check(self) -> Result<[Asked; 5], ApiError> {
        let on = |flag: Option<Flag>| flag.is_some_and(|Flag(on)| on);
        for (name, asks, what) in [
            ("structural_tag", self.structural_tag.is_filled(), "constraining parts of the output"),
            ("whitespace_pattern", self.whitespace_pattern.is_filled(), "choosing the whitespace of JSON"),
            ("disable_any_whitespace", on(self.disable_any_whitespace), "choosing the whitespace of JSON"),
            ("disable_additional_properties", on(self.disable_additional_properties), "changing a schema"),
        ] {
            if asks {
                return Err(unsupported(&format!("structured_outputs.{name}"), what));
            }
        }
        let object = on(self.json_object).then_some(ConstraintKind::JsonObject);
        Ok([
            schema("structured_outputs.json", self.json),
            regex("structured_outputs.regex", self.regex),
            choice("structured_outputs.choice", self.choice),
            grammar("structured_outputs.grammar", self.grammar),
            object.and_then(|kind| asked("structured_outputs.json_object", kind)),
        ])
    }
}

fn asked(param: &str, kind: ConstraintKind) -> Asked {
    Some(Constraint { kind, param: param.to_owned() })
}

fn schema(param: &str, schema: Option<Schema>) -> Asked {
    text(param, schema.map(|Schema(text)| Text(text)), ConstraintKind::JsonSchema)
}

fn regex(param: &str, regex: Option<Text>) -> Asked {
    text(param, regex, ConstraintKind::Regex)
}

fn grammar(param: &str, grammar: Option<Text>) -> Asked {
    text(param, grammar, ConstraintKind::Grammar)
}

fn choice(param: &str, choices: Option<Vec<Text>>) -> Asked {
    let choices = choices?.into_iter().map(|Text(choice)| choice).collect();
    asked(param, ConstraintKind::Choice(choices))
}

/// Some programs send an empty text for "none".
fn text(param: &str, text: Option<Text>, kind: fn(String) -> ConstraintKind) -> Asked {
    let Text(text) = text.filter(|Text(text)| !text.is_empty())?;
    asked(param, kind(text))
}

fn check_size(constraint: &Constraint) -> Result<(), ApiError> {
    let problem = match &constraint.kind {
        ConstraintKind::Choice(choices) if choices.is_empty() => "has nothing to choose from".into(),
        ConstraintKind::Choice(choices) if choices.iter().any(String::is_empty) => "has an empty text".into(),
        ConstraintKind::Choice(choices) if choices.len() > Constraint::MAX_CHOICES => {
            format!("has {} texts, but at most {} are allowed", choices.len(), Constraint::MAX_CHOICES)
        }
        _ if constraint.bytes() > Constraint::MAX_BYTES => {
            format!("has {} bytes, but at most {} are allowed", constraint.bytes(), Constraint::MAX_BYTES)
        }
        _ => return Ok(()),
    };
    Err(field(&constraint.param, problem))
}
