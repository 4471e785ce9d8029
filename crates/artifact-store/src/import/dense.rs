//! `Dense` modules of sentence-transformers, one in each folder:
//!
//! ```text
//! config.json          sizes, bias, activation
//! model.safetensors    linear.weight [outputs, inputs] and perhaps linear.bias
//! ```

use serde_json::Value;

use crate::{DenseActivation, DenseModule};

/// The end of their type.
pub(super) const DENSE: &str = "Dense";
/// Most numbers of a vector.
const MAX_SIZE: u64 = 1 << 16;
/// Ends of the names of classes, and what they compute.
const ACTIVATIONS: [(&str, DenseActivation); 2] =
    [("Identity", DenseActivation::Identity), ("Tanh", DenseActivation::Tanh)];

/// The module in the folder `name`, by its `config.json`.
///
/// # Errors
/// Why it can't be served.
pub(super) fn module_of(name: String, settings: &Value) -> Result<DenseModule, String> {
    let size = |which: &str| {
        let number = settings[which].as_u64().filter(|number| (1..=MAX_SIZE).contains(number));
        number
            .map(|number| number as u32)
            .ok_or_else(|| format!("its \"{which}\" is not a number up to {MAX_SIZE}"))
    };
    // What sentence-transformers assumes.
    let class = match &settings["activation_function"] {
        Value::Null => "Tanh",
        Value::String(class) => class,
        other => {
            return Err(format!("its \"activation_function\" is {other}, which is not the name of a class"));
        }
    };
    let end = class.rsplit('.').next().unwrap_or(class);
    let known = ACTIVATIONS.iter().find(|(known, _)| *known == end);
    let (_, activation) = known.ok_or_else(|| format!("its activation `{class}` can't be served"))?;
    let bias = match &settings["bias"] {
        Value::Null => true,
        Value::Bool(bias) => *bias,
        other => return Err(format!("its \"bias\" is {other}, neither true nor false")),
    };
    Ok(DenseModule {
        name,
        inputs: size("in_features")?,
        outputs: size("out_features")?,
        bias,
        activation: *activation,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_computed_is_read_and_anything_else_refused_by_name() {
        let read = |settings: Value| module_of("2_Dense".to_owned(), &settings);
        let identity = "torch.nn.modules.linear.Identity";
        let module = read(
            json!({"in_features": 4, "out_features": 8, "bias": false, "activation_function": identity}),
        );
        let expected = DenseModule {
            name: "2_Dense".to_owned(),
            inputs: 4,
            outputs: 8,
            bias: false,
            activation: DenseActivation::Identity,
        };
        assert_eq!(module.unwrap(), expected);
        let plain = read(json!({"in_features": 4, "out_features": 8})).unwrap();
        assert_eq!((plain.bias, plain.activation), (true, DenseActivation::Tanh));
        for (setting, wrong, named) in [
            ("activation_function", json!("torch.nn.modules.activation.GELU"), "activation.GELU"),
            ("activation_function", json!(3), "activation_function"),
            ("in_features", json!(0), "in_features"),
            ("out_features", json!(1 << 20), "out_features"),
            ("out_features", Value::Null, "out_features"),
            ("bias", json!("x"), "bias"),
        ] {
            let mut settings = json!({"in_features": 4, "out_features": 8});
            settings[setting] = wrong;
            let error = read(settings).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
