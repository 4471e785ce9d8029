//! Texts that are to be embedded become tokens that fit the model.

use protocol::message::{EmbedInput, Failure, FailureKind, Prompt, Truncation};

use super::{
    preparer::{Preparer, invalid},
    tokens::not_encoded,
};
use crate::model::Dimensions;

/// Inputs that the model can take.
#[derive(Clone, Debug, PartialEq)]
pub struct PreparedInputs {
    /// Tokens of each, at least one.
    pub inputs: Vec<Vec<u32>>,
    /// How many numbers of each embedding are wanted; `None`: all.
    pub dimensions: Option<u32>,
}

/// The field that failures name.
const INPUT: &str = "input";

impl Preparer {
    /// Tokens of each input.
    ///
    /// # Errors
    /// The model does not embed text, an input does not fit it, or its tokenizer fails on one. The failure names the field to
    /// blame.
    pub fn embed(&self, asked: &EmbedInput) -> Result<PreparedInputs, Failure> {
        let Some(dimensions) = &self.settings.embedding else {
            let message = "this model generates text and has no embeddings; name one that `/v1/models` lists with the \
                           task `embed`";
            return Err(invalid("model", message));
        };
        check_dimensions(dimensions, asked.dimensions)?;
        let most = self.most_tokens(asked.truncate)?;
        let inputs = (asked.first..).zip(&asked.inputs).map(|(index, input)| {
            let tokens = self.input_tokens(input, asked.truncate, most)?;
            let named = |what: &str| format!("input {index} {what}");
            if tokens.is_empty() {
                return Err(invalid(INPUT, named("has no tokens: there is nothing to embed")));
            }
            if tokens.len() > most {
                return Err(too_long(&named(&format!("has {} tokens", tokens.len())), most));
            }
            let vocab_size = self.settings.vocab_size;
            if let Some(token) = tokens.iter().find(|&&token| token >= vocab_size) {
                let what = format!(
                    "has token {token}, which is not in the model's vocabulary of {vocab_size} tokens"
                );
                return Err(invalid(INPUT, named(&what)));
            }
            Ok(tokens)
        });
        Ok(PreparedInputs { inputs: inputs.collect::<Result<_, _>>()?, dimensions: asked.dimensions })
    }

    /// Most tokens that an input may have, or is cut to.
    fn most_tokens(&self, truncate: Truncation) -> Result<usize, Failure> {
        let (context, special) = (self.settings.context_length, self.tokenizer.special_tokens());
        let Truncation::To(asked) = truncate else { return Ok(context) };
        let asked = asked as usize;
        if asked > context || asked <= special {
            let message =
                format!("must be more than {special}, and at most the {context} tokens that the model takes");
            return Err(invalid("truncate_prompt_tokens", message));
        }
        Ok(asked)
    }

    fn input_tokens(&self, input: &Prompt, truncate: Truncation, most: usize) -> Result<Vec<u32>, Failure> {
        match (input, truncate) {
            (Prompt::Tokens(tokens), Truncation::Refuse) => Ok(tokens.clone()),
            (Prompt::Tokens(tokens), _) => Ok(tokens[..tokens.len().min(most)].to_vec()),
            (Prompt::Text(text), Truncation::Refuse) => {
                // Of a generation's prompt, room is left for a token of the answer.
                self.tokenizer.check_length(text, most + 1, INPUT)?;
                self.tokenizer.encode(text, true).map_err(|error| not_encoded(&error, INPUT))
            }
            (Prompt::Text(text), _) => {
                self.tokenizer.check_length(text, usize::MAX, INPUT)?;
                self.tokenizer.encode_at_most(text, most).map_err(|error| not_encoded(&error, INPUT))
            }
            (Prompt::Chat(_), _) => Err(invalid(INPUT, "messages of a chat can't be embedded")),
        }
    }
}

fn check_dimensions(dimensions: &Dimensions, asked: Option<u32>) -> Result<(), Failure> {
    match asked {
        Some(asked) if !dimensions.allow(asked) => {
            let message = format!("{asked} is not offered: this model's embeddings have {dimensions}");
            Err(invalid("dimensions", message))
        }
        _ => Ok(()),
    }
}

/// The input, named by its number, has more than `most` tokens.
fn too_long(what: &str, most: usize) -> Failure {
    Failure {
        kind: FailureKind::ContextLengthExceeded,
        param: Some(INPUT.into()),
        message: format!(
            "This model takes at most {most} tokens, and {what}. Shorten it, or ask for `truncate_prompt_tokens`."
        ),
    }
}

#[cfg(test)]
mod tests;
