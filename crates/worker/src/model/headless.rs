//! Decoders that embed text: as encoders, without their output head. Of an input nothing is kept, so there is no memory for keys
//! and values; which tokens of its input a token sees is as the architecture says.

use mlx_rs::{Array, error::Exception};

use super::{
    Architecture, Encoder, EncoderInput, ModelError, arch::Entry, config::Settings, weights::Weights,
};
use crate::backend::{KvStep, PackedInputs, StepMemory};

/// The model.
struct Headless(Box<dyn Architecture>);

/// Takes the weights of a decoder but for its head.
///
/// # Errors
/// Those of the architecture, and a layer of which something is kept, or whose attention is not computed for whole inputs.
pub(super) fn load(
    entry: &Entry,
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Encoder>, ModelError> {
    // As models of Qwen 2 say it whose own code lets them see later tokens.
    if config.flag("is_causal")? == Some(false) {
        return config.refuse("is_causal", false);
    }
    let decoder = (entry.load)(config, weights)?;
    for (layer, spec) in decoder.attention().into_iter().enumerate() {
        if let Some(what) = PackedInputs::unsupported(spec) {
            return Err(ModelError::UnsupportedAttention { layer, what });
        }
    }
    if !decoder.states().parts.is_empty() {
        let what = "a state in place of attention, in a model that embeds text";
        return Err(ModelError::UnsupportedAttention { layer: 0, what });
    }
    Ok(Box::new(Headless(decoder)))
}

impl Encoder for Headless {
    fn context_length(&self) -> u32 {
        self.0.context_length()
    }

    fn vocab_size(&self) -> u32 {
        self.0.vocab_size()
    }

    fn hidden_size(&self) -> u32 {
        self.0.hidden_size()
    }

    fn hidden(&self, input: &EncoderInput<'_>) -> Result<Array, Exception> {
        let tokens = input.inputs.concat();
        let tokens = Array::from_slice(&tokens, &[tokens.len() as i32]);
        self.0.hidden(&tokens, &StepMemory::new(KvStep::Packed(&input.packed), None))
    }
}
