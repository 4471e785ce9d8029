//! The fields of each kind of operation, as typed. As in completions, null is a missing field; what only concerns where
//! or for whom something is computed is ignored; and whatever else is not listed here is refused.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use super::{
    super::request::{Foreign, Message, TypedPrompt, set},
    inputs::TypedInputs,
};
use crate::http::json::{Flag, Key, Object, Probe, Text, Whole};

/// Defines the fields of one kind: their place here, their type, and their names in JSON.
macro_rules! fields {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(super) struct $name {
            $(pub(super) $field: Option<$type>,)*
            /// All others.
            pub(super) foreign: Foreign,
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;

                impl<'de> Visitor<'de> for Fields {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a JSON object")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        let mut fields = $name::default();
                        while let Some(Key(name)) = map.next_key()? {
                            match name.as_ref() {
                                $(stringify!($field) => {
                                    set(&mut fields.$field, stringify!($field), &mut map)?;
                                })*
                                name => fields.foreign.take(name, &map.next_value::<Probe>()?),
                            }
                        }
                        Ok(fields)
                    }
                }

                deserializer.deserialize_map(Fields)
            }
        }
    };
}

fields! {
    /// Of a request to tokenize, in all of its forms.
    TokenizeFields {
        model: Text,
        prompt: Text,
        messages: Vec<Object<Message>>,
        content: Text,
        add_special_tokens: Flag,
        add_generation_prompt: Flag,
        continue_final_message: Flag,
        return_token_strs: Flag,
        add_special: Flag,
        parse_special: Flag,
        with_pieces: Flag,
    }
}

fields! {
    /// Of a request to detokenize.
    DetokenizeFields {
        model: Text,
        tokens: TypedPrompt,
        skip_special_tokens: Flag,
    }
}

fields! {
    /// Of a request to render a chat.
    ApplyTemplateFields {
        model: Text,
        messages: Vec<Object<Message>>,
        add_generation_prompt: Flag,
    }
}

fields! {
    /// Of a request to check a draft model.
    CheckDraftFields {
        model: Text,
        draft_model: Text,
    }
}

fields! {
    /// Of a request for embeddings.
    EmbeddingFields {
        model: Text,
        input: TypedInputs,
        encoding_format: Text,
        dimensions: Whole,
        truncate_prompt_tokens: Whole,
    }
}
