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

/// No quantization has this name and size of groups.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no quantization `{name}` in groups of {group_size}; there are {} in groups of {}",
    Quantization::names().collect::<Vec<_>>().join(", "),
    Quantization::GROUP_SIZES.map(|size| size.to_string()).join(", ")
)]
pub struct UnknownQuantization {
    name: String,
    group_size: u8,
}

/// Bits that a weight can have.
pub(crate) const WIDTHS: [u8; 6] = [2, 3, 4, 5, 6, 8];

/// Names, bits, and bits of the matrices whose rounding costs most: [`WIDTHS`], and mlx-lm's mixed recipes.
const NAMED: [(&str, u8, Option<u8>); 10] = [
    ("2", 2, None),
    ("3", 3, None),
    ("4", 4, None),
    ("5", 5, None),
    ("6", 6, None),
    ("8", 8, None),
    ("mixed_2_6", 2, Some(6)),
    ("mixed_3_4", 3, Some(4)),
    ("mixed_3_6", 3, Some(6)),
    ("mixed_4_6", 4, Some(6)),
];

impl Quantization {
    /// Weights that share a scale and a bias, for [`named`](Self::named).
    pub const GROUP_SIZES: [u8; 3] = [32, 64, 128];

    /// `None` for other widths than 2, 3, 4, 5, 6 and 8 bits, or other groups than 32, 64 and 128 weights.
    pub fn new(bits: u8, group_size: u8) -> Option<Self> {
        let known = WIDTHS.contains(&bits) && Self::GROUP_SIZES.contains(&group_size);
        known.then_some(Self { bits, group_size, high_bits: None })
    }

    /// A number of bits, or one of mlx-lm's mixed recipes, `mixed_3_6` for example.
    ///
    /// # Errors
    /// There is no such quantization; the error names those that there are.
    pub fn named(name: &str, group_size: u8) -> Result<Self, UnknownQuantization> {
        let known = NAMED.into_iter().find(|(known, ..)| *known == name);
        let found = known.filter(|_| Self::GROUP_SIZES.contains(&group_size));
        let (_, bits, high_bits) =
            found.ok_or_else(|| UnknownQuantization { name: name.to_owned(), group_size })?;
        Ok(Self { bits, group_size, high_bits })
    }

    /// What [`named`](Self::named) knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMED.into_iter().map(|(name, ..)| name)
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
        let recipe = Quantization::named("mixed_3_6", 64).unwrap();
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
        let recipes = NAMED.into_iter().filter_map(|(name, low, high)| Some((name, low, high?)));
        for (name, low, high) in recipes {
            let recipe = Quantization::named(name, 32).unwrap();
            assert_eq!((recipe.bits, recipe.high_bits), (low, Some(high)));
            assert_eq!(recipe.to_string(), format!("{low} or {high} bits in groups of 32"));
        }
        for (name, group_size) in
            [("mixed_5_6", 64), ("mixed_2_6", 16), ("7", 64), ("", 64), ("4", 0), ("q4", 32)]
        {
            let error = Quantization::named(name, group_size).unwrap_err().to_string();
            let expected = format!(
                "there is no quantization `{name}` in groups of {group_size}; there are 2, 3, 4, 5, 6, 8, mixed_2_6, \
                 mixed_3_4, mixed_3_6, mixed_4_6 in groups of 32, 64, 128"
            );
            assert_eq!(error, expected);
        }
        for width in WIDTHS {
            assert_eq!(Quantization::named(&width.to_string(), 128).ok(), Quantization::new(width, 128));
        }
        let uniform = Quantization::named("5", 64).unwrap();
        assert_eq!(Some(uniform), Quantization::new(5, 64));
        assert_eq!(uniform.of("lm_head", 16), uniform);
        assert_eq!(serde_json::to_string(&uniform).unwrap(), r#"{"bits":5,"group_size":64}"#);
    }
}
