//! What sentence-transformers may put behind the pooling.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{
    super::{
        largest_difference,
        on::{On, on_every_backend},
        recorded::values,
        tiny::{Float, write_folder},
    },
    normalized, recorded, tolerance, write_modules,
};

on_every_backend!(matrices_behind_the_pooling_are_computed);

/// A matrix with an activation, as a module of sentence-transformers.
struct DenseModule {
    name: &'static str,
    inputs: usize,
    outputs: usize,
    bias: bool,
    tanh: bool,
}

impl DenseModule {
    fn write(&self, folder: &Path) {
        let Self { name, inputs, outputs, bias, tanh } = self;
        let activation = if *tanh { "activation.Tanh" } else { "linear.Identity" };
        let config = json!({ "in_features": inputs, "out_features": outputs, "bias": bias,
                             "activation_function": format!("torch.nn.modules.{activation}") });
        let folder = folder.join(name);
        let tensors = self
            .values()
            .into_iter()
            .map(|(part, shape, values)| (format!("linear.{part}"), Float::F32.tensor(shape, &values)));
        // The same layout, of which the other files have no meaning in this folder.
        fs::create_dir(&folder).unwrap();
        write_folder(&folder, &config, 1, &tensors.collect(), 0);
    }

    fn values(&self) -> Vec<(&'static str, Vec<usize>, Vec<f64>)> {
        let shape = vec![self.outputs, self.inputs];
        let weight = values(self.name, &shape);
        let bias = values(&format!("{} bias", self.name), &[self.outputs]);
        let bias = self.bias.then(|| ("bias", vec![self.outputs], bias));
        [("weight", shape, weight)].into_iter().chain(bias).collect()
    }

    fn of(&self, x: &[f64]) -> Vec<f64> {
        let values = self.values();
        let bias = values.get(1).map(|(.., bias)| bias);
        let sum = |(row, weights): (usize, &[f64])| {
            let sum: f64 = weights.iter().zip(x).map(|(weight, value)| weight * value).sum();
            let sum = sum + bias.map_or(0.0, |bias| bias[row]);
            if self.tanh { sum.tanh() } else { sum }
        };
        values[0].2.chunks_exact(self.inputs).enumerate().map(sum).collect()
    }
}

/// As EmbeddingGemma has two behind its mean.
fn matrices_behind_the_pooling_are_computed(on: On) {
    let all = recorded();
    let recorded = all.iter().find(|model| model.config["model_type"] == "gemma3_text").unwrap();
    let modules = [
        DenseModule { name: "2_Dense", inputs: 64, outputs: 96, bias: false, tanh: false },
        DenseModule { name: "3_Dense", inputs: 96, outputs: 32, bias: true, tanh: true },
    ];
    let loaded = recorded.dense(on, |folder| {
        write_modules(folder, &json!({ "pooling_mode_mean_tokens": true }), true, None);
        let path = folder.join("modules.json");
        let mut listed: Vec<Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for (place, module) in (2..).zip(&modules) {
            module.write(folder);
            listed
                .insert(place, json!({ "type": "sentence_transformers.models.Dense", "path": module.name }));
        }
        fs::write(path, Value::from(listed).to_string()).unwrap();
    });
    assert_eq!(loaded.model.dimensions().all, 32);
    for (found, input) in loaded.model.embed(&recorded.inputs()).unwrap().iter().zip(&recorded.inputs) {
        let expected = normalized(&modules[1].of(&modules[0].of(&input.mean)));
        let difference = largest_difference(found, &expected);
        assert!(difference < tolerance(on), "{difference} on {on:?}");
    }
}
