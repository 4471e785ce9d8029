//! The tools that an answer may call.

use serde::Deserialize;
use serde_json::Value;

use super::{Kind, fields::Fields};
use crate::http::{
    error::ApiError,
    json::{Probe, field, unsupported},
};

/// `tools` as typed. Functions are handed to the model's template with all that the client says of them.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Tools(Vec<Value>);

impl Fields {
    /// The tools as JSON, if the answer may call any.
    pub(super) fn tools(&mut self, kind: Kind) -> Result<Option<String>, ApiError> {
        let may_call = match self.tool_choice.take().unwrap_or_default() {
            Probe::Null => true,
            Probe::Text(choice) if choice == "auto" => true,
            Probe::Text(choice) if choice == "none" => false,
            _ => return Err(unsupported("tool_choice", "an answer that has to call a tool")),
        };
        let Some(Tools(tools)) = self.tools.take().filter(|Tools(tools)| !tools.is_empty()) else {
            return Ok(None);
        };
        if kind == Kind::Completion {
            return Err(unsupported("tools", "calling tools from a text; send `messages`"));
        }
        for (index, tool) in tools.iter().enumerate() {
            check(tool, &format!("tools[{index}]"))?;
        }
        Ok(may_call.then(|| Value::Array(tools).to_string()))
    }
}

fn check(tool: &Value, path: &str) -> Result<(), ApiError> {
    match &tool["type"] {
        Value::String(kind) if kind == "function" => {}
        Value::Null => return Err(field(&format!("{path}.type"), "is required")),
        _ => return Err(unsupported(&format!("{path}.type"), "a tool other than a function")),
    }
    match tool["function"]["name"].as_str() {
        Some(name) if !name.is_empty() => Ok(()),
        _ => Err(field(&format!("{path}.function.name"), "is required")),
    }
}
