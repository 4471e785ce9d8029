//! A JSON Schema as typed.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Map, Value};

/// The text of a schema: an object, or a text that holds one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::http::openai::request) struct Schema(pub(super) String);

struct Schemas;

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Schemas)
    }
}

impl<'de> Visitor<'de> for Schemas {
    type Value = Schema;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON Schema, which is an object")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Schema, E> {
        Ok(Schema(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Schema, A::Error> {
        let fields = Map::<String, Value>::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Schema(Value::Object(fields).to_string()))
    }
}
