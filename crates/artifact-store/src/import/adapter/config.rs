//! What `adapter_config.json` says.

use serde_json::{Value, json};

use crate::python_json::as_float;

/// What to do about an adapter that can't be served beside its base.
const FUSE: &str = "fuse it with its base (`mlx_lm.fuse`) and import the result as a separate model";
const MERGE: &str = "merge it with its base (`merge_and_unload`) and import the result as a separate model";
/// The largest rank.
pub(super) const MAX_RANK: u64 = 1024;

/// Who has written an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AdapterFormat {
    Mlx,
    Peft,
}

/// A configuration that was understood.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AdapterConfig {
    pub(super) format: AdapterFormat,
    /// Of every pair of matrices.
    pub(super) rank: u64,
    /// In mlx-lm's form.
    pub(super) stored: Value,
}

/// Why an adapter can't be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unusable(String);

impl AdapterFormat {
    /// The file that has the weights.
    pub(super) fn weights(self) -> &'static str {
        match self {
            Self::Mlx => super::WEIGHTS,
            Self::Peft => "adapter_model.safetensors",
        }
    }
}

impl AdapterConfig {
    pub(super) fn read(json: &Value) -> Result<Self, Unusable> {
        if json.get("peft_type").is_some() { Self::of_peft(json) } else { Self::of_mlx(json) }
    }

    fn of_mlx(json: &Value) -> Result<Self, Unusable> {
        let kind = json.get("fine_tune_type").unwrap_or(&Value::Null);
        match kind.as_str() {
            Some("lora") => {}
            // mlx-lm takes it for LoRA, too.
            None if kind.is_null() => {}
            Some("dora") => {
                return Err(Unusable(format!(
                    "it is a DoRA adapter, which also scales its base's matrices: {FUSE}"
                )));
            }
            Some("full") => {
                return Err(Unusable(format!(
                    "it is a full fine-tune, which replaces its base's matrices: {FUSE}"
                )));
            }
            _ => return Err(Unusable(format!("its `fine_tune_type` is {kind}; only `lora` can be served"))),
        }
        let parameters = &json["lora_parameters"];
        if parameters.get("scale").is_none() {
            let hint =
                if parameters.get("alpha").is_some() { " (`alpha` is not what mlx-lm reads)" } else { "" };
            return Err(Unusable(format!("its `lora_parameters` have no `scale`{hint}")));
        }
        let rank = rank(&parameters["rank"], "lora_parameters.rank")?;
        finite(&parameters["scale"], "lora_parameters.scale")?;
        Ok(Self { format: AdapterFormat::Mlx, rank, stored: json.clone() })
    }

    fn of_peft(json: &Value) -> Result<Self, Unusable> {
        let kind = &json["peft_type"];
        if kind.as_str() != Some("LORA") {
            return Err(Unusable(format!("its `peft_type` is {kind}; only `LORA` can be served: {MERGE}")));
        }
        refuse_variants(json)?;
        let rank = rank(&json["r"], "r")?;
        let alpha = finite(&json["lora_alpha"], "lora_alpha")?;
        let divisor = if json["use_rslora"] == true { (rank as f64).sqrt() } else { rank as f64 };
        let stored = json!({
            "fine_tune_type": "lora",
            "lora_parameters": { "rank": rank, "scale": alpha / divisor, "dropout": 0.0 },
        });
        Ok(Self { format: AdapterFormat::Peft, rank, stored })
    }
}

/// Whatever changes what PEFT computes, beyond two matrices and a factor for all modules.
fn refuse_variants(json: &Value) -> Result<(), Unusable> {
    let off = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    for setting in [
        "use_dora",
        "use_qalora",
        "lora_bias",
        "fan_in_fan_out",
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "layer_replication",
        "trainable_token_indices",
        "target_parameters",
        "alora_invocation_tokens",
        "arrow_config",
    ] {
        let value = &json[setting];
        if !off(value) {
            return Err(Unusable(format!(
                "its `{setting}` is {}, which can't be served: {MERGE}",
                short(value)
            )));
        }
    }
    let bias = &json["bias"];
    if !bias.is_null() && bias.as_str() != Some("none") {
        return Err(Unusable(format!("its `bias` is {}, and biases can't be adapted: {MERGE}", short(bias))));
    }
    // Others begin with a base that they have changed.
    let init = &json["init_lora_weights"];
    let keeps_base = init.is_null()
        || init.is_boolean()
        || init.as_str().is_some_and(|name| ["gaussian", "eva", "orthogonal"].contains(&name));
    if !keeps_base {
        return Err(Unusable(format!(
            "its `init_lora_weights` is {}, which changes the base's matrices: {MERGE}",
            short(init)
        )));
    }
    Ok(())
}

fn rank(value: &Value, name: &str) -> Result<u64, Unusable> {
    let rank = value.as_u64().filter(|rank| (1..=MAX_RANK).contains(rank));
    rank.ok_or_else(|| Unusable(format!("its `{name}` is {}; it has to be 1 to {MAX_RANK}", short(value))))
}

fn finite(value: &Value, name: &str) -> Result<f64, Unusable> {
    let number = as_float(value).filter(|number| (*number as f32).is_finite());
    number.ok_or_else(|| Unusable(format!("its `{name}` is {}, not a finite number", short(value))))
}

/// A value as an error shows it.
fn short(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{} …", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn mlx() -> Value {
        json!({
            "fine_tune_type": "lora", "num_layers": 4,
            "lora_parameters": { "rank": 8, "scale": 20.0, "dropout": 0.0 },
        })
    }

    fn peft() -> Value {
        json!({ "peft_type": "LORA", "r": 4, "lora_alpha": 16, "bias": "none", "target_modules": ["q_proj"] })
    }

    fn refusal(mut json: Value, setting: &str, value: Value) -> String {
        json[setting] = value;
        AdapterConfig::read(&json).unwrap_err().to_string()
    }

    #[test]
    fn both_forms_become_one() {
        let read = AdapterConfig::read(&mlx()).unwrap();
        assert_eq!((read.rank, &read.stored), (8, &mlx()));
        let read = AdapterConfig::read(&peft()).unwrap();
        assert_eq!((read.format, read.rank), (AdapterFormat::Peft, 4));
        assert_eq!(read.stored["lora_parameters"]["scale"], 4.0);
        let mut rslora = peft();
        rslora["use_rslora"] = true.into();
        let scale = AdapterConfig::read(&rslora).unwrap().stored["lora_parameters"]["scale"].clone();
        assert_eq!(scale, 8.0, "alpha / sqrt(r)");
        let mut unsaid = mlx();
        unsaid.as_object_mut().unwrap().remove("fine_tune_type");
        assert!(AdapterConfig::read(&unsaid).is_ok());
    }

    #[test]
    fn other_kinds_are_refused_by_name_and_with_what_to_do() {
        assert!(refusal(mlx(), "fine_tune_type", "dora".into()).contains("DoRA adapter"));
        assert!(refusal(mlx(), "fine_tune_type", "full".into()).contains("mlx_lm.fuse"));
        assert!(refusal(mlx(), "fine_tune_type", "ia3".into()).contains("\"ia3\""));
        assert!(refusal(peft(), "peft_type", "IA3".into()).contains("\"IA3\""));
        for (setting, value) in [
            ("use_dora", json!(true)),
            ("rank_pattern", json!({ "q_proj": 2 })),
            ("modules_to_save", json!(["lm_head"])),
            ("bias", json!("all")),
            ("init_lora_weights", json!("pissa")),
        ] {
            let text = refusal(peft(), setting, value);
            assert!(text.contains(setting) && text.contains("merge_and_unload"), "{text}");
        }
    }

    #[test]
    fn numbers_without_sense_are_refused() {
        for rank in [json!(0), json!(1_000_000), json!(-1), json!("8"), Value::Null] {
            assert!(refusal(peft(), "r", rank).contains("`r` is"));
        }
        let parameters = |scale: Value| json!({ "rank": 8, "scale": scale });
        for scale in [json!(1e300), json!("x"), Value::Null] {
            assert!(refusal(mlx(), "lora_parameters", parameters(scale)).contains("scale"));
        }
        let text = refusal(mlx(), "lora_parameters", json!({ "rank": 8, "alpha": 16 }));
        assert!(text.contains("`alpha`"), "{text}");
    }
}
