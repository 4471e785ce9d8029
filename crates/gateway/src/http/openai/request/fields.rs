//! The fields as typed, read in one pass. Nothing is kept of a value that the server can't use.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};

use super::{
    bias::LogitBias,
    foreign::Foreign,
    logprobs::TypedLogprobs,
    message::Message,
    output::{ResponseFormat, Schema, StructuredOutputs},
    prompt::TypedPrompt,
    terms::Urgency,
    tools::Tools,
};
use crate::http::json::{Flag, Key, Number, Object, Probe, Text, Texts, Whole};

/// Defines the fields: their place here, their type, and their names in JSON.
macro_rules! fields {
    ($($field:ident: $type:ty = $name:literal,)*) => {
        /// The fields of both kinds of completion, as typed.
        #[derive(Debug, Default)]
        pub(super) struct Fields {
            $(pub(super) $field: Option<$type>,)*
            /// All others.
            pub(super) foreign: Foreign,
        }

        /// The names of the fields that this server offers.
        #[cfg(test)]
        pub(super) const OFFERED: &[&str] = &[$($name,)*];

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some(Key(name)) = map.next_key()? {
                    match name.as_ref() {
                        $($name => set(&mut fields.$field, $name, &mut map)?,)*
                        name => fields.foreign.take(name, &map.next_value::<Probe>()?),
                    }
                }
                Ok(fields)
            }
        }
    };
}

fields! {
    model: Text = "model",
    messages: Vec<Object<Message>> = "messages",
    prompt: TypedPrompt = "prompt",
    stream: Flag = "stream",
    stream_options: Object<StreamOptions> = "stream_options",
    max_tokens: Whole = "max_tokens",
    max_completion_tokens: Whole = "max_completion_tokens",
    max_output_tokens: Whole = "max_output_tokens",
    max_new_tokens: Whole = "max_new_tokens",
    n_predict: Whole = "n_predict",
    num_predict: Whole = "num_predict",
    min_tokens: Whole = "min_tokens",
    min_new_tokens: Whole = "min_new_tokens",
    stop: Texts = "stop",
    stop_sequences: Texts = "stop_sequences",
    stop_token_ids: Vec<Whole> = "stop_token_ids",
    include_stop_str_in_output: Flag = "include_stop_str_in_output",
    seed: Whole = "seed",
    random_seed: Whole = "random_seed",
    temperature: Number = "temperature",
    top_p: Number = "top_p",
    top_k: Whole = "top_k",
    min_p: Number = "min_p",
    typical_p: Number = "typical_p",
    typical: Number = "typical",
    presence_penalty: Number = "presence_penalty",
    frequency_penalty: Number = "frequency_penalty",
    repetition_penalty: Number = "repetition_penalty",
    repeat_penalty: Number = "repeat_penalty",
    repeat_last_n: Whole = "repeat_last_n",
    repetition_context_size: Whole = "repetition_context_size",
    logit_bias: LogitBias = "logit_bias",
    ignore_eos: Flag = "ignore_eos",
    response_format: Object<ResponseFormat> = "response_format",
    structured_outputs: Object<StructuredOutputs> = "structured_outputs",
    guided_json: Schema = "guided_json",
    guided_regex: Text = "guided_regex",
    guided_choice: Vec<Text> = "guided_choice",
    guided_grammar: Text = "guided_grammar",
    regex: Text = "regex",
    choice: Vec<Text> = "choice",
    json_schema: Schema = "json_schema",
    grammar: Text = "grammar",
    add_special_tokens: Flag = "add_special_tokens",
    add_bos_token: Flag = "add_bos_token",
    priority: Urgency = "priority",
    timeout: Number = "timeout",
    logprobs: TypedLogprobs = "logprobs",
    top_logprobs: Whole = "top_logprobs",
    echo: Flag = "echo",
    n: Whole = "n",
    n_cmpl: Whole = "n_cmpl",
    best_of: Whole = "best_of",
    draft_model: Text = "draft_model",
    tools: Tools = "tools",
    tool_choice: Probe = "tool_choice",
}

/// What a stream has beside the text.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StreamOptions {
    pub(super) include_usage: Option<Flag>,
    pub(super) continuous_usage_stats: Probe,
}

struct FieldsVisitor;

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// Null is as good as a missing field.
pub(in crate::http::openai) fn set<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    slot: &mut Option<T>,
    name: &str,
    map: &mut A,
) -> Result<(), A::Error> {
    match (map.next_value::<Option<T>>()?, &slot) {
        (None, _) => {}
        (Some(_), Some(_)) => return Err(de::Error::custom(format_args!("`{name}` is given twice"))),
        (value, None) => *slot = value,
    }
    Ok(())
}
