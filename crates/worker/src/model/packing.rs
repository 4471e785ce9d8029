//! How matrices are packed: what `config.json` says, for the whole model and for single modules, and whether the tensors
//! agree.

use std::{collections::HashMap, fmt};

use artifact_store::{Dtype, TensorEntry};
use mlx_ext::MicroScaling;
use serde_json::Value;

use super::{ModelError, config::Settings};

/// What MLX assumes where a configuration does not say it.
const DEFAULT_GROUP_SIZE: i32 = 64;
const DEFAULT_BITS: i32 = 4;

/// Of affine packing.
const GROUP_SIZES: [i32; 3] = [32, 64, 128];
const WIDTHS: [i32; 6] = [2, 3, 4, 5, 6, 8];

/// How a matrix is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// `scale * integer + bias`.
    Affine {
        /// Inputs that share scale and bias.
        group_size: i32,
        /// Of an integer.
        bits: i32,
    },
    /// Small floats.
    MicroScaled(MicroScaling),
}

/// What a configuration says of all modules.
#[derive(Debug, Default)]
pub(super) struct Packings<'a> {
    /// The setting, and what it says of modules that it does not name.
    default: Option<(&'a str, Packing)>,
    /// By name; `None`: the module is not packed.
    modules: HashMap<&'a str, Option<Packing>>,
}

impl Packing {
    /// Bits of a value.
    pub(super) fn bits(self) -> i32 {
        match self {
            Self::Affine { bits, .. } => bits,
            Self::MicroScaled(format) => format.bits(),
        }
    }

    /// Inputs that share a scale.
    pub(super) fn group_size(self) -> i32 {
        match self {
            Self::Affine { group_size, .. } => group_size,
            Self::MicroScaled(format) => format.group_size(),
        }
    }

    fn parse(said: Settings<'_>) -> Result<Self, ModelError> {
        let (bits, group_size) = (said.whole("bits", 1, 1 << 16)?, said.whole("group_size", 1, 1 << 16)?);
        let mode = said.text("mode")?.unwrap_or("affine");
        if mode == "affine" {
            let (bits, group_size) = (bits.unwrap_or(DEFAULT_BITS), group_size.unwrap_or(DEFAULT_GROUP_SIZE));
            if !WIDTHS.contains(&bits) {
                return said.refuse("bits", bits);
            }
            if !GROUP_SIZES.contains(&group_size) {
                return said.refuse("group_size", group_size);
            }
            return Ok(Self::Affine { group_size, bits });
        }
        let Some(format) = MicroScaling::ALL.into_iter().find(|format| format.name() == mode) else {
            return said.refuse("mode", mode);
        };
        if let Some(bits) = bits.filter(|bits| *bits != format.bits()) {
            return said.refuse("bits", format!("{bits}, with `mode` = {mode}"));
        }
        if let Some(size) = group_size.filter(|size| *size != format.group_size()) {
            return said.refuse("group_size", format!("{size}, with `mode` = {mode}"));
        }
        Ok(Self::MicroScaled(format))
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Affine { group_size, bits } => write!(out, "{bits} bits in groups of {group_size}"),
            Self::MicroScaled(format) => out.write_str(format.name()),
        }
    }
}

impl<'a> Packings<'a> {
    /// Reads `quantization`, or `quantization_config` where there is no other, of a configuration or of its `text_config`.
    ///
    /// # Errors
    /// What it says can't be served.
    pub(super) fn parse(config: Settings<'a>) -> Result<Self, ModelError> {
        let text = config.object("text_config")?;
        for config in [Some(config), text].into_iter().flatten() {
            for name in ["quantization", "quantization_config"] {
                if let Some(said) = config.object(name)? {
                    return Self::read(name, said);
                }
            }
        }
        Ok(Self::default())
    }

    fn read(setting: &'a str, said: Settings<'a>) -> Result<Self, ModelError> {
        if let Some(method) = said.text("quant_method")? {
            return said.refuse("quant_method", method);
        }
        let default = Packing::parse(said)?;
        let mut modules = HashMap::new();
        for (module, value) in said.iter() {
            match value {
                Value::Bool(false) => drop(modules.insert(module.as_str(), None)),
                Value::Bool(true) => drop(modules.insert(module.as_str(), Some(default))),
                Value::Object(_) => {
                    if let Some(own) = said.object(module)? {
                        modules.insert(module.as_str(), Some(Packing::parse(own)?));
                    }
                }
                _ => {}
            }
        }
        Ok(Self { default: Some((setting, default)), modules })
    }

    /// How `<module>.weight` is packed, of which these tensors are there; `None`: it is dense.
    ///
    /// # Errors
    /// Configuration and tensors disagree, or are at odds with the module's inputs.
    pub(super) fn of(
        &self,
        module: &str,
        weight: Option<&TensorEntry>,
        scales: Option<&TensorEntry>,
        inputs: i32,
    ) -> Result<Option<Packing>, ModelError> {
        let named = self.modules.get(module).copied();
        let Some(scales) = scales else {
            return match named {
                Some(Some(packing)) => {
                    Err(wrong(&format!("{module}.scales"), "is missing", module, &packing.to_string()))
                }
                _ => Ok(None),
            };
        };
        let (setting, packing) = match (named, self.default) {
            (Some(Some(packing)), _) => (module, packing),
            (Some(None), _) => {
                let found = "is there, as of a quantized matrix";
                return Err(wrong(&scales.name, found, module, "false"));
            }
            (None, Some(default)) => default,
            (None, None) => return told_by_shapes(weight, scales, inputs).map(Some),
        };
        check(packing, setting, weight, scales, inputs).map(|()| Some(packing))
    }
}

/// Whether the tensors are what the setting says.
fn check(
    packing: Packing,
    setting: &str,
    weight: Option<&TensorEntry>,
    scales: &TensorEntry,
    inputs: i32,
) -> Result<(), ModelError> {
    let disagrees =
        |tensor: &TensorEntry, what: &str| Err(wrong(&tensor.name, what, setting, &packing.to_string()));
    let columns = |tensor: &TensorEntry| tensor.shape.last().copied();
    let shape = |tensor: &TensorEntry| format!("has shape {:?} for {inputs} inputs", tensor.shape);
    let (width, of_group) = (i64::from(packing.bits()), i64::from(packing.group_size()));
    let inputs = i64::from(inputs);
    if inputs % of_group != 0 || inputs % 32 != 0 || columns(scales) != Some((inputs / of_group) as u64) {
        return disagrees(scales, &shape(scales));
    }
    if let Some(weight) = weight.filter(|weight| columns(weight) != Some((inputs / 32 * width) as u64)) {
        return disagrees(weight, &shape(weight));
    }
    let of_bytes = scales.dtype == Dtype::U8;
    if of_bytes != matches!(packing, Packing::MicroScaled(_)) {
        return disagrees(scales, &format!("holds {:?}", scales.dtype));
    }
    Ok(())
}

/// Where a configuration says nothing, affine packing can be told from the shapes.
fn told_by_shapes(
    weight: Option<&TensorEntry>,
    scales: &TensorEntry,
    inputs: i32,
) -> Result<Packing, ModelError> {
    let misshapen = |tensor: &TensorEntry, expected: String| {
        Err(ModelError::WrongShape { name: tensor.name.clone(), found: tensor.shape.clone(), expected })
    };
    if scales.dtype == Dtype::U8 {
        return Err(wrong(&scales.name, "holds U8", "quantization", "nothing"));
    }
    let columns = |tensor: &TensorEntry| tensor.shape.last().copied().unwrap_or_default();
    let fits = |group_size: &i32| columns(scales).saturating_mul(*group_size as u64) == inputs as u64;
    let Some(group_size) = GROUP_SIZES.into_iter().find(fits) else {
        return misshapen(scales, format!("one column for each 32, 64 or 128 of {inputs} inputs"));
    };
    let Some(weight) = weight else {
        return Ok(Packing::Affine { group_size, bits: DEFAULT_BITS }); // it is missed when it is taken
    };
    let fits = |bits: &i32| columns(weight).saturating_mul(32) == inputs as u64 * (*bits as u64);
    match WIDTHS.into_iter().find(fits) {
        Some(bits) => Ok(Packing::Affine { group_size, bits }),
        None => misshapen(weight, format!("columns for {inputs} inputs of 2, 3, 4, 5, 6 or 8 bits")),
    }
}

fn wrong(name: &str, found: &str, setting: &str, value: &str) -> ModelError {
    let [name, found, setting, value] = [name, found, setting, value].map(str::to_owned);
    ModelError::WrongPacking { name, found, setting, value }
}

#[cfg(test)]
mod tests;
