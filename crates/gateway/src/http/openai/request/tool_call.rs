//! Calls of tools, as clients send them back.

use serde::Deserialize;
use serde_json::Value;

use crate::{
    http::{
        error::ApiError,
        json::{Object, Text, field, unsupported},
    },
    serve::ToolCall,
};

/// As typed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TypedCall {
    id: Option<Text>,
    #[serde(rename = "type")]
    kind: Option<Text>,
    function: Option<Object<Function>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Function {
    name: Option<Text>,
    /// JSON in a text, as OpenAI has it, or the object itself.
    arguments: Value,
}

impl TypedCall {
    /// `path` is the field that it stands in.
    pub(super) fn check(self, path: &str) -> Result<ToolCall, ApiError> {
        if let Some(Text(kind)) = self.kind.filter(|Text(kind)| kind != "function") {
            let kind = &kind[..kind.floor_char_boundary(40)];
            return Err(unsupported(&format!("{path}.type"), format!("a call of type `{kind}`")));
        }
        let required = |name: &str| field(&format!("{path}.{name}"), "is required");
        let Some(Object(Function { name, arguments })) = self.function else {
            return Err(required("function"));
        };
        let name = name.map(|Text(name)| name).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| required("function.name"))?;
        let id = self.id.map(|Text(id)| id).unwrap_or_default();
        Ok(ToolCall { id, name, arguments: canonical(arguments) })
    }
}

/// Arguments as JSON without needless escapes, behind which a control token could hide. What is no JSON stays as it is.
fn canonical(arguments: Value) -> String {
    match arguments {
        Value::Null => "{}".to_owned(),
        Value::String(text) => match serde_json::from_str::<Value>(&text) {
            Ok(value) => value.to_string(),
            Err(_) => text,
        },
        value => value.to_string(),
    }
}
