//! Chat templates, from all the places where transformers looks for them.
//!
//! ```text
//! additional_chat_templates/<name>.jinja     named templates
//! chat_template.jinja                        the default one
//! tokenizer_config.json  "chat_template"     a text, or named texts; only without chat_template.jinja
//! chat_template.json     "chat_template"     the same, of a processor; only where nothing else has a default one
//! ```

use std::collections::BTreeMap;

use serde_json::Value;

use super::root::Root;
use crate::{
    StoreError,
    python_json::{self, PythonJsonError},
};

/// The name of the template that is used unless another one is asked for.
pub(super) const DEFAULT: &str = "default";
/// The folder of named templates.
pub(super) const FOLDER: &str = "additional_chat_templates";
const FILE: &str = "chat_template.jinja";
const LEGACY_FILE: &str = "chat_template.json";
const EXTENSION: &str = ".jinja";
const KEY: &str = "chat_template";
/// Largest template, in bytes; the largest in use are about 30 KB. It is in the manifest, and every worker compiles it.
pub(crate) const MAX_TEMPLATE: usize = 1 << 20;
/// Most templates of a model.
const MAX_TEMPLATES: usize = 64;

/// By name; the default one is named [`DEFAULT`].
pub(super) type Templates = BTreeMap<String, String>;

/// Reads all templates of a folder.
pub(super) fn read(root: &mut Root, tokenizer_config: &Value) -> Result<Templates, StoreError> {
    let mut templates = Templates::new();
    let file = read_text(root, FILE)?;
    if file.is_none() {
        templates = of_value(&tokenizer_config[KEY]);
    }
    templates.extend(file.map(|text| (DEFAULT.to_owned(), text)));
    for file_name in names(root)? {
        if let Some(text) = read_text(root, &format!("{FOLDER}/{file_name}"))? {
            templates.insert(file_name.trim_end_matches(EXTENSION).to_owned(), text);
        }
    }
    if !templates.contains_key(DEFAULT)
        && let Some(bytes) = root.read_optional(LEGACY_FILE, MAX_TEMPLATE as u64)?
    {
        let bad = |error: PythonJsonError| StoreError::bad_source(&root.path_of(LEGACY_FILE), error.reason());
        let json = python_json::from_slice(&bytes).map_err(bad)?;
        for (name, text) in of_value(&json[KEY]) {
            templates.entry(name).or_insert(text);
        }
    }
    check(&templates).map_err(|reason| StoreError::bad_source(root.path(), reason))?;
    Ok(templates)
}

/// Refuses templates that are too many or too long.
pub(crate) fn check(templates: &BTreeMap<String, String>) -> Result<(), String> {
    if templates.len() > MAX_TEMPLATES {
        return Err(format!("it has {} chat templates, more than {MAX_TEMPLATES}", templates.len()));
    }
    match templates.iter().find(|(_, text)| text.len() > MAX_TEMPLATE) {
        None => Ok(()),
        Some((name, text)) => {
            Err(format!("its chat template {name:?} has {} bytes, more than {MAX_TEMPLATE}", text.len()))
        }
    }
}

/// File names of the named templates.
pub(super) fn names(root: &Root) -> Result<Vec<String>, StoreError> {
    let mut names = root.names(FOLDER)?;
    names.retain(|name| name.len() > EXTENSION.len() && name.ends_with(EXTENSION) && !name.starts_with('.'));
    if names.len() > MAX_TEMPLATES {
        let reason = format!("it has {} templates, more than {MAX_TEMPLATES}", names.len());
        return Err(StoreError::bad_source(&root.path_of(FOLDER), reason));
    }
    Ok(names)
}

/// One template, a list of named ones, or an object of these.
fn of_value(value: &Value) -> Templates {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match value {
        Value::String(template) => Templates::from([(DEFAULT.to_owned(), template.clone())]),
        Value::Array(named) => named
            .iter()
            .filter_map(|entry| Some((text(&entry["name"])?, text(&entry["template"])?)))
            .collect(),
        Value::Object(named) => {
            named.iter().filter_map(|(name, template)| Some((name.clone(), text(template)?))).collect()
        }
        _ => Templates::new(),
    }
}

fn read_text(root: &mut Root, name: &str) -> Result<Option<String>, StoreError> {
    let Some(bytes) = root.read_optional(name, MAX_TEMPLATE as u64)? else { return Ok(None) };
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| StoreError::bad_source(&root.path_of(name), "it is not UTF-8 text"))
}
