//! The factors by which Llama 3.1 and later stretch their rotary wavelengths: a tensor in GGUF, four numbers in
//! Hugging Face's configuration.
//!
//! ```text
//! turns  = original context / wavelength              full turns within the context the model was first trained for
//! smooth = (turns - low) / (high - low), from 0 to 1
//! factor of a wavelength = 1 / ((1 - smooth) / factor + smooth)
//! ```
//!
//! Only ratios of `original context`, `low` and `high` matter, so that `low` may be taken as 1; then two factors between
//! the ends tell the other two numbers. Whatever is found has to give all factors again.

use std::f64::consts::TAU;

use serde_json::{Value, json};

use super::GgufError;

/// Name of the tensor, one f32 for each pair of a head's components.
pub(crate) const FACTORS: &str = "rope_freqs.weight";
/// Names of Phi's factors, of which there are two lists.
pub(crate) const LONG_FACTORS: &str = "rope_factors_long.weight";
pub(crate) const SHORT_FACTORS: &str = "rope_factors_short.weight";

/// The content of these tensors, of those that the file has.
#[derive(Clone, Debug, Default)]
pub(crate) struct RopeFactors {
    /// Of [`FACTORS`].
    pub(crate) llama3: Option<Vec<f32>>,
    /// Of [`LONG_FACTORS`].
    pub(crate) long: Option<Vec<f32>>,
    /// Of [`SHORT_FACTORS`].
    pub(crate) short: Option<Vec<f32>>,
}

/// Largest relative difference of a factor: those in files were computed in f32.
const TOLERANCE: f64 = 2e-5;

/// The parameters, under Hugging Face's names.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Llama3 {
    factor: f64,
    low_freq_factor: f64,
    high_freq_factor: f64,
    original_max_position_embeddings: f64,
}

/// Whether a tensor has factors instead of weights.
pub(crate) fn is_factors(name: &str) -> bool {
    [FACTORS, LONG_FACTORS, SHORT_FACTORS].contains(&name)
}

/// `rope_scaling` with these factors; `None` if they change nothing.
///
/// # Errors
/// If no `rope_scaling` gives these factors.
pub(super) fn scaling(factors: &[f32], base: f64, head_dim: u64) -> Result<Option<Value>, GgufError> {
    if factors.len() as u64 != head_dim / 2
        || factors.iter().any(|factor| !factor.is_finite() || *factor <= 0.0)
    {
        return Err(GgufError::Damaged(format!("`{FACTORS}` does not have a positive number for each pair")));
    }
    let factors: Vec<f64> = factors.iter().copied().map(f64::from).collect();
    let turns: Vec<f64> =
        (0..factors.len()).map(|pair| base.powf(-((2 * pair) as f64) / head_dim as f64) / TAU).collect();
    let same = |value: f64| factors.iter().all(|&factor| close(factor, value));
    let last = factors.last().copied().unwrap_or(1.0);
    if same(1.0) {
        return Ok(None);
    }
    if same(last) {
        return Ok(Some(json!({ "rope_type": "linear", "factor": whole(last) })));
    }
    let usual = Llama3 {
        factor: whole(last),
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    let fitted = Llama3::fit(&factors, &turns).into_iter().flat_map(|fitted| [fitted.rounded(), fitted]);
    let found = std::iter::once(usual).chain(fitted).find(|candidate| candidate.explains(&factors, &turns));
    match found {
        Some(found) => Ok(Some(found.json())),
        None => Err(GgufError::Unsupported(format!(
            "its rotary factors (`{FACTORS}`) are none that a `rope_scaling` of type llama3 or linear gives; import the \
             original safetensors folder instead"
        ))),
    }
}

impl Llama3 {
    /// From the first and the last factor between the ends; `turns` for each token of context.
    fn fit(factors: &[f64], turns: &[f64]) -> Option<Self> {
        let factor = whole(*factors.last()?);
        let smooth = |place: usize| (1.0 / factors[place] - 1.0 / factor) / (1.0 - 1.0 / factor);
        let between = |place: &usize| (1e-3..=1.0 - 1e-3).contains(&smooth(*place));
        let mut places = (0..factors.len()).filter(between);
        let (first, last) = (places.next()?, places.next_back()?);
        // smooth = slope * turns - low / (high - low)
        let slope = (smooth(first) - smooth(last)) / (turns[first] - turns[last]);
        let intercept = slope * turns[first] - smooth(first);
        Some(Self {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 1.0 + 1.0 / intercept,
            original_max_position_embeddings: slope / intercept,
        })
    }

    fn rounded(self) -> Self {
        Self {
            high_freq_factor: self.high_freq_factor.round(),
            original_max_position_embeddings: self.original_max_position_embeddings.round(),
            ..self
        }
    }

    fn explains(&self, factors: &[f64], turns: &[f64]) -> bool {
        let sound =
            self.high_freq_factor > self.low_freq_factor && self.original_max_position_embeddings > 0.0;
        sound && factors.iter().zip(turns).all(|(&factor, &turns)| close(factor, self.stretch(turns)))
    }

    fn stretch(&self, turns: f64) -> f64 {
        let (low, high) = (self.low_freq_factor, self.high_freq_factor);
        let smooth = ((turns * self.original_max_position_embeddings - low) / (high - low)).clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / self.factor + smooth)
    }

    fn json(&self) -> Value {
        json!({
            "rope_type": "llama3",
            "factor": self.factor,
            "low_freq_factor": self.low_freq_factor,
            "high_freq_factor": self.high_freq_factor,
            "original_max_position_embeddings": self.original_max_position_embeddings,
        })
    }
}

fn close(a: f64, b: f64) -> bool {
    (a / b - 1.0).abs() < TOLERANCE
}

/// The nearest integer, if the number is that but for rounding.
fn whole(value: f64) -> f64 {
    if close(value, value.round()) { value.round() } else { value }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// As the converter of llama.cpp computes them, in f32 as far as it does.
    fn written(parameters: [f64; 4], base: f64, head_dim: u64) -> Vec<f32> {
        let [factor, low, high, context] = parameters;
        let wavelength = |pair: u64| {
            let frequency = 1.0 / (base as f32).powf((2 * pair) as f32 / head_dim as f32);
            2.0 * std::f32::consts::PI / frequency
        };
        (0..head_dim / 2)
            .map(|pair| {
                let wavelength = f64::from(wavelength(pair));
                if wavelength < context / high {
                    1.0
                } else if wavelength > context / low {
                    factor as f32
                } else {
                    let smooth = (context / wavelength - low) / (high - low);
                    (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
                }
            })
            .collect()
    }

    #[test]
    fn llama_3_1_and_3_2_come_back_as_they_were() {
        for (factor, head_dim) in [(8.0, 128), (32.0, 64)] {
            let factors = written([factor, 1.0, 4.0, 8192.0], 500_000.0, head_dim);
            let scaling = scaling(&factors, 500_000.0, head_dim).unwrap().unwrap();
            let expected = json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192.0,
            });
            assert_eq!(scaling, expected);
        }
    }

    #[test]
    fn factors_of_another_origin_are_refused() {
        assert_eq!(scaling(&[1.0; 32], 10000.0, 64).unwrap(), None);
        assert_eq!(scaling(&[4.0; 32], 10000.0, 64).unwrap().unwrap()["rope_type"], "linear");
        let long: Vec<f32> = (0..32).map(|pair| 1.0 + pair as f32).collect();
        assert!(scaling(&long, 10000.0, 64).unwrap_err().to_string().contains("rope_scaling"));
        for bad in [&[1.0; 31][..], &[f32::NAN; 32], &[0.0; 32]] {
            assert!(scaling(bad, 10000.0, 64).is_err());
        }
    }

    proptest! {
        /// What is found may be other numbers, but the same factors.
        #[test]
        fn other_parameters_are_found(
            factor in 2_u32..64, low in 1_u32..4, ratio in 2_u32..8, context in 1024_u32..65536,
        ) {
            let parameters = [factor, low, low * ratio, context].map(f64::from);
            let factors = written(parameters, 500_000.0, 128);
            let found = scaling(&factors, 500_000.0, 128).unwrap().unwrap();
            let number = |key: &str| found[key].as_f64().unwrap();
            prop_assert_eq!(number("factor"), parameters[0]);
            let again = ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"].map(number);
            for (a, b) in factors.iter().zip(written(again, 500_000.0, 128)) {
                prop_assert!((a / b - 1.0).abs() < 1e-4, "{} {}", a, b);
            }
        }
    }
}
