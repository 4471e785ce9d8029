//! Which program has packed a model's matrices, and in which of its layouts.

use serde_json::Value;

/// Where configurations have it, in the order in which it is looked for.
const SETTINGS: [&str; 2] = ["quantization_config", "compression_config"];
/// What AWQ means where a configuration does not say it.
const AWQ_GROUP: u64 = 128;

/// A layout of packed integers, their scales and zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Inputs by outputs: words have integers that follow each other along the inputs, of zeros along the outputs.
    Gptq {
        /// Whether zeros are stored less 1, as the format's first version has them.
        less_one: bool,
    },
    /// Inputs by outputs: words have eight integers of 4 bits along the outputs, those at even places first.
    Awq,
    /// Outputs by inputs: words have integers that follow each other along the inputs, of zeros along the outputs.
    CompressedTensors,
}

/// What a configuration says of all matrices. Their tensors tell the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::import) struct Said {
    pub(super) method: Method,
    /// Inputs that share a scale; `None`: all. One of them holds for each matrix.
    pub(super) groups: Vec<Option<u64>>,
}

/// How the names of a matrix's tensors end.
#[derive(Clone, Copy)]
pub(super) struct Suffixes {
    pub(super) integers: &'static str,
    pub(super) scales: &'static str,
    pub(super) zeros: &'static str,
    /// Of the group of each input.
    pub(super) order: Option<&'static str>,
    /// Of outputs and inputs.
    pub(super) size: Option<&'static str>,
}

/// What `config.json` says, if it is one of these methods.
///
/// # Errors
/// What can't be converted, by its name.
pub(in crate::import) fn said(config: &Value) -> Result<Option<Said>, String> {
    let places = [config, &config["text_config"]];
    if places.iter().any(|config| !config["quantization"].is_null()) {
        return Ok(None);
    }
    let mut settings = places.iter().flat_map(|config| SETTINGS.map(|name| &config[name]));
    let Some(settings) = settings.find(|settings| settings.is_object()) else { return Ok(None) };
    match settings["quant_method"].as_str() {
        Some("gptq") => gptq(settings).map(Some),
        Some("awq") => awq(settings).map(Some),
        Some("compressed-tensors") => compressed_tensors(settings).map(Some),
        None if settings["config_groups"].is_object() => compressed_tensors(settings).map(Some),
        _ => Ok(None),
    }
}

/// Takes the settings out, wherever they are.
pub(super) fn remove_settings(config: &mut Value) {
    let remove = |config: &mut Value| {
        if let Some(config) = config.as_object_mut() {
            SETTINGS.iter().for_each(|name| drop(config.remove(*name)));
        }
    };
    remove(config);
    if let Some(text) = config.get_mut("text_config") {
        remove(text);
    }
}

impl Said {
    /// Whether it allows groups of this size in a matrix with this many inputs.
    pub(super) fn has_groups_of(&self, size: u64, inputs: u64) -> bool {
        self.groups.iter().any(|said| said.unwrap_or(inputs) == size)
    }
}

impl Method {
    pub(super) fn suffixes(self) -> Suffixes {
        match self {
            Self::Gptq { .. } => Suffixes {
                integers: ".qweight",
                scales: ".scales",
                zeros: ".qzeros",
                order: Some(".g_idx"),
                size: None,
            },
            Self::Awq => Suffixes {
                integers: ".qweight",
                scales: ".scales",
                zeros: ".qzeros",
                order: None,
                size: None,
            },
            Self::CompressedTensors => Suffixes {
                integers: ".weight_packed",
                scales: ".weight_scale",
                zeros: ".weight_zero_point",
                order: Some(".weight_g_idx"),
                size: Some(".weight_shape"),
            },
        }
    }

    /// Bits that an integer can have: those that the method's programs write and MLX has.
    pub(super) fn widths(self) -> &'static [u64] {
        match self {
            Self::Gptq { .. } => &[2, 3, 4, 8],
            Self::Awq => &[4],
            Self::CompressedTensors => &[2, 3, 4, 5, 6, 8],
        }
    }
}

fn gptq(settings: &Value) -> Result<Said, String> {
    let format = [&settings["checkpoint_format"], &settings["format"]].into_iter().find(|it| !it.is_null());
    let less_one = match format.map(|format| format.as_str()) {
        None | Some(Some("gptq")) => true,
        Some(Some("gptq_v2")) => false,
        Some(_) => {
            return Err(format!("GPTQ with \"checkpoint_format\": {}", format.unwrap_or(&Value::Null)));
        }
    };
    if settings["is_marlin_format"] == true {
        return Err("GPTQ with \"is_marlin_format\": true".to_owned());
    }
    // Some modules may have settings of their own, under patterns of their names.
    let own = settings["dynamic"].as_object().into_iter().flat_map(|own| own.values());
    let all = std::iter::once(settings).chain(own);
    let groups = all.filter(|settings| !settings["group_size"].is_null());
    let groups = groups.map(|settings| group("GPTQ", &settings["group_size"]));
    Ok(Said { method: Method::Gptq { less_one }, groups: groups.collect::<Result<_, _>>()? })
}

fn awq(settings: &Value) -> Result<Said, String> {
    let refuse = |key: &str| Err(format!("AWQ with \"{key}\": {}", settings[key]));
    let is = |key: &str, taken: &str| match &settings[key] {
        Value::Null => true,
        said => said.as_str().is_some_and(|said| said.eq_ignore_ascii_case(taken)),
    };
    for (key, taken) in [("version", "gemm"), ("backend", "autoawq")] {
        if !is(key, taken) {
            return refuse(key);
        }
    }
    for key in ["bits", "w_bit"] {
        if !settings[key].is_null() && settings[key] != 4 {
            return refuse(key);
        }
    }
    let sizes = [&settings["group_size"], &settings["q_group_size"]];
    let size = sizes.into_iter().find(|size| !size.is_null());
    let group = size.map_or(Ok(Some(AWQ_GROUP)), |size| group("AWQ", size))?;
    Ok(Said { method: Method::Awq, groups: vec![group] })
}

fn compressed_tensors(settings: &Value) -> Result<Said, String> {
    const NAME: &str = "compressed-tensors";
    const FORMAT: &str = "pack-quantized";
    if settings["format"] != FORMAT {
        return Err(format!("{NAME} with \"format\": {}", settings["format"]));
    }
    let is_nothing =
        |value: &Value| value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
    let sparse = &settings["sparsity_config"];
    if !is_nothing(sparse) && sparse["format"] != "dense" {
        return Err(format!("{NAME} with \"sparsity_config\""));
    }
    for key in ["kv_cache_scheme", "transform_config"] {
        if !is_nothing(&settings[key]) {
            return Err(format!("{NAME} with \"{key}\""));
        }
    }
    let mut groups = Vec::new();
    for scheme in settings["config_groups"].as_object().into_iter().flat_map(|schemes| schemes.values()) {
        for key in ["input_activations", "output_activations"] {
            if !is_nothing(&scheme[key]) {
                return Err(format!("{NAME} with \"{key}\""));
            }
        }
        if !scheme["format"].is_null() && scheme["format"] != FORMAT {
            return Err(format!("{NAME} with \"format\": {}", scheme["format"]));
        }
        let weights = &scheme["weights"];
        if !weights["type"].is_null() && weights["type"] != "int" {
            return Err(format!("{NAME} with \"type\": {}", weights["type"]));
        }
        match weights["strategy"].as_str() {
            Some("group") => groups.push(group(NAME, &weights["group_size"])?),
            Some("channel") => groups.push(None),
            _ => return Err(format!("{NAME} with \"strategy\": {}", weights["strategy"])),
        }
    }
    Ok(Said { method: Method::CompressedTensors, groups })
}

/// -1 stands for all inputs.
fn group(method: &str, size: &Value) -> Result<Option<u64>, String> {
    match size.as_u64() {
        Some(size @ 1..) => Ok(Some(size)),
        None if *size == -1 => Ok(None),
        _ => Err(format!("{method} with \"group_size\": {size}")),
    }
}

#[cfg(test)]
mod tests;
