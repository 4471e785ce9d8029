//! How a model of sentence-transformers makes an embedding of its hidden states:
//!
//! ```text
//! modules.json                       what follows what: Transformer, Pooling, perhaps Dense, perhaps Normalize
//! <path>/config.json                 of Pooling: which hidden states count; of Dense: see `dense.rs`
//! sentence_bert_config.json          how many tokens an input may have
//! config_sentence_transformers.json  what texts have to begin with
//! ```

use serde_json::{Map, Value};

use super::{
    dense::{self, DENSE},
    root::Root,
};
use crate::{EmbeddingConfig, Pooling, StoreError, python_json};

const MODULES: &str = "modules.json";
const LENGTH: &str = "sentence_bert_config.json";
const PROMPTS: &str = "config_sentence_transformers.json";
const CONFIG: &str = "config.json";
/// Largest of these files, in bytes; they have some hundred.
const MAX_FILE: u64 = 1 << 20;
/// Most matrices behind the pooling.
const MAX_DENSE: usize = 16;
/// Kinds of pooling, by their flags and by their names.
const POOLINGS: [(&str, &str, Pooling); 3] = [
    ("pooling_mode_cls_token", "cls", Pooling::FirstToken),
    ("pooling_mode_mean_tokens", "mean", Pooling::Mean),
    ("pooling_mode_lasttoken", "lasttoken", Pooling::LastToken),
];

/// What the files say, and which there are.
#[derive(Default)]
pub(super) struct EmbeddingFiles {
    pub(super) config: Option<EmbeddingConfig>,
    pub(super) names: Vec<String>,
    /// What the user should know.
    pub(super) warning: Option<String>,
}

/// The modules behind the transformer.
#[derive(Debug, PartialEq)]
struct Modules {
    /// The folder of the pooling's settings.
    pooling: String,
    /// The folders of the matrices behind it.
    dense: Vec<String>,
    normalizes: bool,
}

/// Reads them. A folder without `modules.json` is not of sentence-transformers.
///
/// # Errors
/// The model computes what could not be served.
pub(super) fn read(root: &mut Root) -> Result<EmbeddingFiles, StoreError> {
    let Some(modules) = read_json(root, MODULES)? else { return Ok(EmbeddingFiles::default()) };
    let bad = |name: &str, reason: String| StoreError::bad_source(&root.path_of(name), reason);
    let modules = modules_of(&modules).map_err(|reason| bad(MODULES, reason))?;
    let pooling_file = format!("{}/{CONFIG}", modules.pooling);
    let Some(settings) = read_json(root, &pooling_file)? else {
        let reason = "it is missing; download the model again".to_owned();
        return Err(StoreError::bad_source(&root.path_of(&pooling_file), reason));
    };
    let pooling = pooling_of(&settings)
        .map_err(|reason| StoreError::bad_source(&root.path_of(&pooling_file), reason))?;
    let length = read_json(root, LENGTH)?;
    let max_tokens = length.as_ref().map_or(Ok(None), length_of);
    let max_tokens = max_tokens.map_err(|reason| StoreError::bad_source(&root.path_of(LENGTH), reason))?;
    let prompts = read_json(root, PROMPTS)?;
    let mut names = vec![MODULES.to_owned(), pooling_file];
    names.extend(length.map(|_| LENGTH.to_owned()));
    names.extend(prompts.iter().map(|_| PROMPTS.to_owned()));
    let mut dense = Vec::with_capacity(modules.dense.len());
    for module in modules.dense {
        let file = format!("{module}/{CONFIG}");
        let settings = read_json(root, &file)?.unwrap_or_default();
        let read = dense::module_of(module, &settings);
        dense.push(read.map_err(|reason| StoreError::bad_source(&root.path_of(&file), reason))?);
        names.push(file);
    }
    let config = EmbeddingConfig { pooling, normalize: modules.normalizes, max_tokens, dense };
    let warning = prompts.as_ref().and_then(unused_prompts);
    Ok(EmbeddingFiles { config: Some(config), names, warning })
}

fn modules_of(modules: &Value) -> Result<Modules, String> {
    let all = modules.as_array().ok_or("it is not a list")?;
    let mut kinds = Vec::with_capacity(all.len().min(MAX_DENSE));
    for module in all {
        let whole = module["type"].as_str().ok_or("a module has no \"type\"")?;
        let kind = whole.rsplit('.').next().unwrap_or(whole);
        if !matches!(kind, "Transformer" | "Pooling" | DENSE | "Normalize") {
            return Err(format!("its module `{whole}` can't be served"));
        }
        kinds.push((kind, module["path"].as_str().unwrap_or_default()));
    }
    let (kinds, normalizes) = match &kinds[..] {
        [before @ .., ("Normalize", _)] => (before, true),
        all => (all, false),
    };
    let [("Transformer", ""), ("Pooling", pooling), dense @ ..] = kinds else { return Err(other_modules()) };
    if dense.len() > MAX_DENSE || dense.iter().any(|(kind, _)| *kind != DENSE) {
        return Err(other_modules());
    }
    let folder = |(kind, path): (&str, &str)| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if path.is_empty() || !path.bytes().all(is_plain) {
            return Err(format!("the \"path\" of its {kind} is {path:?}, which is not the name of a folder"));
        }
        Ok(path.to_owned())
    };
    let pooling = folder(("Pooling", pooling))?;
    let dense = dense.iter().map(|module| folder(*module)).collect::<Result<_, _>>()?;
    Ok(Modules { pooling, dense, normalizes })
}

fn other_modules() -> String {
    "it has other modules than a transformer, a pooling, matrices (`Dense`) and a normalization, in this order".to_owned()
}

/// What clients have to put before their texts: the server knows of no text what it is for.
fn unused_prompts(settings: &Value) -> Option<String> {
    let prompts = settings["prompts"].as_object()?;
    let prompts = prompts.iter().filter_map(|(name, text)| Some((name, text.as_str()?)));
    let said: Vec<_> = prompts
        .filter(|(_, text)| !text.is_empty())
        .map(|(name, text)| format!("{name}: {text:?}"))
        .collect();
    let (first, more) = said.split_first()?;
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    Some(format!(
        "{PROMPTS} says what texts have to begin with ({first}{more}); nothing is put before a text here, so requests have to \
         have it"
    ))
}

fn pooling_of(settings: &Value) -> Result<Pooling, String> {
    let settings = settings.as_object().ok_or("it is not an object")?;
    let wanted = wanted_poolings(settings)?;
    match wanted[..] {
        [one] => {
            let known = POOLINGS.iter().find(|(flag, name, _)| one == *flag || one == *name);
            known.map(|(.., pooling)| *pooling).ok_or_else(|| format!("its pooling `{one}` can't be served"))
        }
        [] => Err("it does not say how tokens are pooled".to_owned()),
        _ => Err(format!("several poolings can't be served together: {}", wanted.join(", "))),
    }
}

/// The names of what is asked for: in newer files a name, in others a flag each.
fn wanted_poolings(settings: &Map<String, Value>) -> Result<Vec<&str>, String> {
    match settings.get("pooling_mode") {
        Some(Value::String(name)) => return Ok(vec![name]),
        Some(Value::Array(names)) => {
            let names: Option<_> = names.iter().map(Value::as_str).collect();
            return names.ok_or_else(|| "its \"pooling_mode\" is not a list of names".to_owned());
        }
        Some(Value::Null) | None => {}
        Some(_) => return Err("its \"pooling_mode\" is not a name".to_owned()),
    }
    let mut wanted = Vec::new();
    for (name, value) in settings.iter().filter(|(name, _)| name.starts_with("pooling_mode_")) {
        if value.as_bool().ok_or_else(|| format!("its \"{name}\" is neither true nor false"))? {
            wanted.push(name.as_str());
        }
    }
    Ok(wanted)
}

/// Most tokens of an input.
fn length_of(settings: &Value) -> Result<Option<u32>, String> {
    if settings["do_lower_case"].as_bool() == Some(true) {
        return Err("its \"do_lower_case\" can't be served".to_owned());
    }
    match &settings["max_seq_length"] {
        Value::Null => Ok(None),
        length => {
            let number = length.as_u64().and_then(|number| u32::try_from(number).ok());
            let number = number.filter(|number| *number > 0);
            number
                .map(Some)
                .ok_or_else(|| format!("its \"max_seq_length\" is {length}, not a number of tokens"))
        }
    }
}

fn read_json(root: &mut Root, name: &str) -> Result<Option<Value>, StoreError> {
    let Some(bytes) = root.read_optional(name, MAX_FILE)? else { return Ok(None) };
    let json = python_json::from_slice(&bytes);
    json.map(Some).map_err(|error| StoreError::bad_source(&root.path_of(name), error.reason()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn modules(kinds: &[(&str, &str)]) -> Result<Modules, String> {
        let entry = |(kind, path): &(&str, &str)| json!({"type": format!("a.b.{kind}"), "path": path});
        modules_of(&kinds.iter().map(entry).collect())
    }

    #[test]
    fn modules_are_a_transformer_a_pooling_and_perhaps_a_normalization() {
        let expected =
            |normalizes| Modules { pooling: "1_Pooling".to_owned(), dense: Vec::new(), normalizes };
        let two = [("Transformer", ""), ("Pooling", "1_Pooling")];
        assert_eq!(modules(&two), Ok(expected(false)));
        let three = [two[0], two[1], ("Normalize", "2_Normalize")];
        assert_eq!(modules(&three), Ok(expected(true)));
        for wrong in [&two[..1], &[two[1], two[0]], &[], &[two[0], two[1], two[1]]] {
            assert!(modules(wrong).unwrap_err().contains("other modules"), "{wrong:?}");
        }
        let other = modules(&[two[0], two[1], ("WordWeights", "2_WordWeights")]).unwrap_err();
        assert!(other.contains("`a.b.WordWeights`"), "{other}");
        for path in ["", "..", "a/b", "/etc", "a\\b"] {
            assert!(modules(&[two[0], ("Pooling", path)]).unwrap_err().contains("path"), "{path}");
        }
        assert!(modules_of(&json!({})).is_err() && modules_of(&json!([{"path": ""}])).is_err());
    }

    #[test]
    fn matrices_stand_between_pooling_and_normalization() {
        let (transformer, pooling, end) = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "4"));
        let (first, second) = (("Dense", "2_Dense"), ("Dense", "3_Dense"));
        let all = modules(&[transformer, pooling, first, second, end]).unwrap();
        assert_eq!((all.dense, all.normalizes), (vec!["2_Dense".to_owned(), "3_Dense".to_owned()], true));
        assert!(!modules(&[transformer, pooling, first]).unwrap().normalizes);
        for wrong in [&[transformer, first, pooling][..], &[transformer, pooling, end, first]] {
            assert!(modules(wrong).unwrap_err().contains("in this order"), "{wrong:?}");
        }
        assert!(modules(&[transformer, pooling, ("Dense", "../x")]).unwrap_err().contains("path"));
        assert!(modules(&[&[transformer, pooling][..], &[first; 17]].concat()).is_err());
    }

    #[test]
    fn prompts_are_the_clients_to_write() {
        let settings = |prompts: Value| unused_prompts(&json!({ "prompts": prompts }));
        let warning = settings(json!({ "query": "Find:\n", "document": "" })).unwrap();
        assert!(warning.contains("query: \"Find:\\n\");") && !warning.contains("document"), "{warning}");
        assert_eq!(settings(json!({ "query": "" })), None);
        assert_eq!(unused_prompts(&json!([])), None);
    }

    #[test]
    fn poolings_have_flags_or_names_and_others_are_refused_by_name() {
        let flags = |cls: bool, mean: bool, last: bool| {
            json!({"word_embedding_dimension": 8, "pooling_mode_cls_token": cls, "pooling_mode_mean_tokens": mean,
                   "pooling_mode_max_tokens": false, "pooling_mode_lasttoken": last, "include_prompt": true})
        };
        assert_eq!(pooling_of(&flags(true, false, false)), Ok(Pooling::FirstToken));
        assert_eq!(pooling_of(&flags(false, true, false)), Ok(Pooling::Mean));
        assert_eq!(pooling_of(&flags(false, false, true)), Ok(Pooling::LastToken));
        assert_eq!(pooling_of(&json!({"pooling_mode": "lasttoken"})), Ok(Pooling::LastToken));
        assert_eq!(pooling_of(&json!({"pooling_mode": ["cls"]})), Ok(Pooling::FirstToken));
        for (settings, named) in [
            (flags(true, true, false), "pooling_mode_cls_token"),
            (json!({"pooling_mode_max_tokens": true}), "pooling_mode_max_tokens"),
            (json!({"pooling_mode": "weightedmean"}), "weightedmean"),
            (json!({"pooling_mode": 3}), "pooling_mode"),
            (json!({"pooling_mode_cls_token": 3}), "pooling_mode_cls_token"),
            (json!({}), "does not say"),
            (json!([]), "object"),
        ] {
            let error = pooling_of(&settings).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn lengths_are_numbers_of_tokens() {
        assert_eq!(length_of(&json!({"max_seq_length": 256, "do_lower_case": false})), Ok(Some(256)));
        assert_eq!(length_of(&json!({"max_seq_length": null})), Ok(None));
        for wrong in [json!(0), json!(-1), json!("x"), json!(1.5), json!(1_u64 << 40)] {
            assert!(length_of(&json!({ "max_seq_length": wrong })).is_err(), "{wrong}");
        }
        assert!(length_of(&json!({"do_lower_case": true})).unwrap_err().contains("do_lower_case"));
    }
}
