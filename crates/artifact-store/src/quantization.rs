//! To how many bits dense matrices are quantized, and which of them to more.

use std::fmt;

use serde::{Deserialize, Serialize};

/// MLX's affine quantization: how many bits a weight takes, and how many neighbours share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantization {
    /// 2, 3, 4, 5, 6 or 8.
    pub(crate) bits: u8,
    /// 32, 64 or 128.
    pub(crate) group_size: u8,
    /// More bits, for the matrices whose rounding costs most; `None`: all have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) high_bits: Option<u8>,
}

/// mlx-lm's mixed recipes: name, bits, and bits of the matrices whose rounding costs most.
const RECIPES: [(&str, u8, u8); 4] =
    [("mixed_2_6", 2, 6), ("mixed_3_4", 3, 4), ("mixed_3_6", 3, 6), ("mixed_4_6", 4, 6)];

impl Quantization {
    /// `None` for other widths than 2, 3, 4, 5, 6 and 8 bits, or other groups than 32, 64 and 128 weights.
    pub fn new(bits: u8, group_size: u8) -> Option<Self> {
        let known = matches!(bits, 2..=6 | 8) && matches!(group_size, 32 | 64 | 128);
        known.then_some(Self { bits, group_size, high_bits: None })
    }

    /// One of mlx-lm's mixed recipes, `mixed_3_6` for example; `None` for other names and groups.
    pub fn recipe(name: &str, group_size: u8) -> Option<Self> {
        let (_, bits, high) = RECIPES.into_iter().find(|(known, ..)| *known == name)?;
        Some(Self { high_bits: Some(high), ..Self::new(bits, group_size)? })
    }

    /// How the matrices of one module are quantized in a model with `layers` layers.
    pub(crate) fn of(self, module: &str, layers: u64) -> Self {
        let bits = match self.high_bits {
            Some(high) if gets_more(module, layers) => high,
            _ => self.bits,
        };
        Self { bits, high_bits: None, ..self }
    }
}

/// As mlx-lm chooses: an own head; and of the first and last eighth of the layers, and of every third between them, the
/// projections to values and back from the feed-forward network.
fn gets_more(module: &str, layers: u64) -> bool {
    let layer = module.split('.').find_map(|part| part.parse().ok()).unwrap_or(0_u64);
    let eighth = layers / 8;
    let layer_gets_more =
        layer < eighth || layer >= layers.saturating_mul(7) / 8 || (layer - eighth) % 3 == 2;
    let has = |names: &[&str]| names.iter().any(|name| module.contains(name));
    has(&["lm_head"]) || (layer_gets_more && has(&["v_proj", "v_a_proj", "v_b_proj", "down_proj"]))
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.bits)?;
        if let Some(high) = self.high_bits {
            write!(f, " or {high}")?;
        }
        write!(f, " bits in groups of {}", self.group_size)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// What mlx-lm's `mixed_quant_predicate` answers for a model of sixteen layers.
    #[test]
    fn recipes_choose_as_mlx_lm_does() {
        let recipe = Quantization::recipe("mixed_3_6", 64).unwrap();
        let bits = |module: &str| recipe.of(module, 16).bits;
        let more = [0, 1, 4, 7, 10, 13, 14, 15];
        for layer in 0..16 {
            let expected = if more.contains(&layer) { 6 } else { 3 };
            assert_eq!(bits(&format!("model.layers.{layer}.self_attn.v_proj")), expected, "{layer}");
            assert_eq!(bits(&format!("model.layers.{layer}.mlp.down_proj")), expected, "{layer}");
            assert_eq!(bits(&format!("model.layers.{layer}.mlp.up_proj")), 3);
            assert_eq!(bits(&format!("model.layers.{layer}.self_attn.q_proj")), 3);
        }
        assert_eq!((bits("lm_head"), bits("model.embed_tokens")), (6, 3));
    }

    #[test]
    fn recipes_have_names_and_others_have_none() {
        for (name, low, high) in RECIPES {
            let recipe = Quantization::recipe(name, 32).unwrap();
            assert_eq!((recipe.bits, recipe.high_bits), (low, Some(high)));
            assert_eq!(recipe.to_string(), format!("{low} or {high} bits in groups of 32"));
        }
        assert!(
            Quantization::recipe("mixed_5_6", 64).is_none()
                && Quantization::recipe("mixed_2_6", 16).is_none()
        );
        let uniform = Quantization::new(5, 64).unwrap();
        assert_eq!(uniform.of("lm_head", 16), uniform);
        assert_eq!(serde_json::to_string(&uniform).unwrap(), r#"{"bits":5,"group_size":64}"#);
    }
}
