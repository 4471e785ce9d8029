//! How weights are packed, as `config.json` has it in MLX's terms.

use std::fmt;

use serde_json::Value;

use crate::python_json::as_float;

/// MLX's packings of small floats: mode, bits, group size.
pub(crate) const SMALL_FLOATS: [(&str, u8, u8); 3] = [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)];
/// Mode, bits and group size where settings have none.
const DEFAULT: (&str, u8, u8) = ("affine", 4, 64);

/// A packing of MLX's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// `affine`, `mxfp4`, `mxfp8` or `nvfp4`.
    pub mode: &'static str,
    /// Bits of a weight.
    pub bits: u8,
    /// Weights that share a scale.
    pub group_size: u8,
}

impl Packing {
    /// The settings of a quantized model, `quantization` or `quantization_config`, which may be below `text_config`.
    pub fn settings(config: &Value) -> Option<&Value> {
        let places = [config, &config["text_config"]].into_iter();
        let mut settings = places.flat_map(|place| [&place["quantization"], &place["quantization_config"]]);
        settings.find(|settings| settings.is_object())
    }

    /// What settings of a model or of one of its modules say, and MLX's defaults where they say nothing; `None` if there is
    /// no such mode, or a number is none of a byte.
    pub fn of(settings: &Value) -> Option<Self> {
        let wanted = match &settings["mode"] {
            Value::Null => DEFAULT.0,
            mode => mode.as_str()?,
        };
        let mut known = SMALL_FLOATS.into_iter().chain([DEFAULT]);
        let (mode, bits, group_size) = known.find(|(mode, ..)| *mode == wanted)?;
        let number = |key: &str, default: u8| {
            if settings[key].is_null() {
                return Some(default);
            }
            let number = as_float(&settings[key])?;
            (number.fract() == 0.0 && (0.0..256.0).contains(&number)).then_some(number as u8)
        };
        Some(Self { mode, bits: number("bits", bits)?, group_size: number("group_size", group_size)? })
    }

    /// Of small floats instead of integers with a scale and a bias.
    pub(crate) fn is_of_small_floats(self) -> bool {
        self.mode != DEFAULT.0
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_of_small_floats() {
            write!(f, "{}, ", self.mode)?;
        }
        write!(f, "{} bits, groups of {}", self.bits, self.group_size)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn what_settings_do_not_say_is_mlx_s_default() {
        let shown = |settings: Value| Packing::of(&settings).map(|packing| packing.to_string());
        for (settings, expected) in [
            (json!({}), "4 bits, groups of 64"),
            (json!({ "mode": "affine", "bits": 3 }), "3 bits, groups of 64"),
            (json!({ "bits": 8.0, "group_size": 32 }), "8 bits, groups of 32"),
            (json!({ "mode": "mxfp4" }), "mxfp4, 4 bits, groups of 32"),
            (json!({ "mode": "mxfp8", "group_size": 32 }), "mxfp8, 8 bits, groups of 32"),
            (json!({ "mode": "nvfp4", "bits": 4 }), "nvfp4, 4 bits, groups of 16"),
        ] {
            assert_eq!(shown(settings).unwrap(), expected);
        }
        for settings in
            [json!({ "mode": "q4" }), json!({ "mode": 4 }), json!({ "bits": 256 }), json!({ "bits": "4" })]
        {
            assert_eq!(shown(settings.clone()), None, "{settings}");
        }
    }

    #[test]
    fn settings_are_found_where_configurations_have_them() {
        let settings = json!({ "bits": 4 });
        for config in [
            json!({ "quantization": settings }),
            json!({ "quantization_config": settings }),
            json!({ "text_config": { "quantization": settings } }),
        ] {
            assert_eq!(Packing::settings(&config), Some(&settings), "{config}");
        }
        assert_eq!(Packing::settings(&json!({ "quantization": null })), None);
    }
}
