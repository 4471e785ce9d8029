//! Which matrix of the base a tensor adapts, by its name.

use super::config::AdapterFormat;

/// The two matrices of a pair, as mlx-lm calls them.
pub(super) const PARTS: [&str; 2] = ["lora_a", "lora_b"];
/// Stands before the names of PEFT.
const PEFT_PREFIX: &str = "base_model.model.";

/// Why a tensor has no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoPlace(String);

/// The name under which a tensor is stored.
pub(super) fn stored(format: AdapterFormat, name: &str) -> Result<String, NoPlace> {
    let stored = match format {
        AdapterFormat::Mlx => of_mlx(name),
        AdapterFormat::Peft => of_peft(name),
    };
    stored.ok_or_else(|| NoPlace(format!("tensor `{name}` {}", reason(name))))
}

fn of_mlx(name: &str) -> Option<String> {
    let (module, part) = name.rsplit_once('.')?;
    (!module.is_empty() && PARTS.contains(&part)).then(|| name.to_owned())
}

fn of_peft(name: &str) -> Option<String> {
    let name = name.strip_prefix(PEFT_PREFIX)?.strip_suffix(".weight")?;
    // Some files also name the adapter.
    let name = name.strip_suffix(".default").unwrap_or(name);
    let (module, part) = name.rsplit_once('.')?;
    let part = match part {
        "lora_A" => PARTS[0],
        "lora_B" => PARTS[1],
        _ => return None,
    };
    (!module.is_empty()).then(|| format!("{module}.{part}"))
}

fn reason(name: &str) -> &'static str {
    let has = |part: &str| name.contains(part);
    if has("lora_magnitude_vector") || name.ends_with(".m") {
        "belongs to a DoRA adapter: fuse the adapter with its base and import the result as a separate model"
    } else if has("lora_embedding_") {
        "adapts an embedding, which can't be served: merge the adapter with its base and import the result"
    } else {
        "is not one of an adapter's matrices (`lora_a`, `lora_b`; in PEFT's files `lora_A.weight`, `lora_B.weight`): \
         merge the adapter with its base and import the result"
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn both_forms_have_the_same_names_afterwards() {
        let name = "model.layers.3.self_attn.q_proj.lora_a";
        assert_eq!(stored(AdapterFormat::Mlx, name).unwrap(), name);
        for infix in ["", ".default"] {
            let peft = format!("base_model.model.model.layers.3.self_attn.q_proj.lora_A{infix}.weight");
            assert_eq!(stored(AdapterFormat::Peft, &peft).unwrap(), name);
        }
    }

    #[test]
    fn other_tensors_are_refused_by_name() {
        for (format, name) in [
            (AdapterFormat::Mlx, "model.layers.0.self_attn.q_proj.weight"),
            (AdapterFormat::Mlx, "lora_a"),
            (AdapterFormat::Mlx, ".lora_a"),
            (AdapterFormat::Mlx, "model.layers.0.self_attn.q_proj.m"),
            (AdapterFormat::Peft, "model.layers.0.self_attn.q_proj.lora_a"),
            (AdapterFormat::Peft, "base_model.model.lora_A.weight"),
            (AdapterFormat::Peft, "base_model.model.lm_head.modules_to_save.weight"),
            (AdapterFormat::Peft, "base_model.model.model.embed_tokens.lora_embedding_A"),
        ] {
            let text = stored(format, name).unwrap_err().to_string();
            assert!(text.contains(name), "{text}");
        }
    }
}
