//! How tokens are chosen.

use super::{bias::LogitBias, fields::Fields};
use crate::{
    http::{
        error::ApiError,
        json::{Number, Whole, field, float, one_of, unsupported},
    },
    serve::Sampling,
};

impl Fields {
    /// How tokens are chosen, with a seed in any case.
    pub(super) fn sampling(&mut self) -> Result<Sampling, ApiError> {
        let off = Sampling::default();
        let top_k = match self.top_k {
            // -1 is another way to say "all".
            None | Some(Whole(-1)) => 0,
            Some(Whole(k)) => u32::try_from(k)
                .map_err(|_| field("top_k", "must be 0 or -1 (keep all tokens), or a number of tokens"))?,
        };
        let top_p = float("top_p", self.top_p, 1.0, 0.0..=1.0)?;
        if top_p <= 0.0 {
            return Err(field("top_p", "must be greater than 0 and at most 1"));
        }
        let sampling = Sampling {
            temperature: float("temperature", self.temperature, 1.0, 0.0..=2.0)?,
            top_p,
            top_k,
            min_p: float("min_p", self.min_p, off.min_p, 0.0..=1.0)?,
            typical_p: self.typical_p()?,
            repetition_penalty: self.repetition_penalty()?,
            presence_penalty: float("presence_penalty", self.presence_penalty, 0.0, -2.0..=2.0)?,
            frequency_penalty: float("frequency_penalty", self.frequency_penalty, 0.0, -2.0..=2.0)?,
            logit_bias: self.logit_bias.take().map(LogitBias::check).transpose()?.unwrap_or_default(),
            seed: self.seed()?,
            logprobs: None,
        };
        self.check_window(&sampling)?;
        Ok(sampling)
    }

    /// As transformers name it, or as text-generation-webui does. 0 is off, as in the latter.
    fn typical_p(&self) -> Result<f32, ApiError> {
        let names = [("typical_p", self.typical_p), ("typical", self.typical)];
        let Some((name, value)) = one_of(&names, |Number(n)| n.to_string())? else { return Ok(1.0) };
        match float(name, Some(value), 1.0, 0.0..=1.0)? {
            0.0 => Ok(1.0),
            mass => Ok(mass),
        }
    }

    /// As mlx-lm, vLLM and SGLang name it, or as llama.cpp and Ollama do.
    fn repetition_penalty(&self) -> Result<f32, ApiError> {
        let names =
            [("repetition_penalty", self.repetition_penalty), ("repeat_penalty", self.repeat_penalty)];
        let Some((name, value)) = one_of(&names, |Number(n)| n.to_string())? else { return Ok(1.0) };
        let penalty = float(name, Some(value), 1.0, 0.0..=10.0)?;
        if penalty <= 0.0 {
            return Err(field(name, "must be greater than 0 and at most 10"));
        }
        Ok(penalty)
    }

    /// Penalties look at all tokens. A window makes no difference if there are none.
    fn check_window(&self, sampling: &Sampling) -> Result<(), ApiError> {
        let off = sampling.repetition_penalty == 1.0
            && sampling.presence_penalty == 0.0
            && sampling.frequency_penalty == 0.0;
        let names = [
            ("repeat_last_n", self.repeat_last_n),
            ("repetition_context_size", self.repetition_context_size),
        ];
        match names.iter().find(|(_, value)| value.is_some_and(|window| window != Whole(-1))) {
            Some((name, _)) if !off => Err(unsupported(name, "penalties for the last tokens only")),
            _ => Ok(()),
        }
    }

    /// The seed; one that is drawn if none is given, so that the worker needs no source of randomness.
    fn seed(&self) -> Result<u64, ApiError> {
        let names = [("seed", self.seed), ("random_seed", self.random_seed)];
        match one_of(&names, |Whole(n)| n.to_string())? {
            None => Ok(getrandom::u64()?),
            // Negative seeds are as good as any.
            Some((name, Whole(seed))) => u64::try_from(seed)
                .or_else(|_| i64::try_from(seed).map(|seed| seed as u64))
                .map_err(|_| field(name, "must be an integer of at most 64 bits")),
        }
    }
}
