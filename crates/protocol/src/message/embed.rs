//! Embeddings: one vector for each text.

use serde::{Deserialize, Serialize};

use super::{
    Prompt,
    limits::{self, MAX_EMBED_INPUTS, MAX_EMBEDDING_VALUES},
};

/// What is to be embedded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmbedInput {
    /// Texts or token ids, at most [`MAX_EMBED_INPUTS`]. A text gets the special tokens of the tokenizer; ids are taken as
    /// they are.
    pub inputs: Vec<Prompt>,
    /// The number of the first of them in the client's list, for messages.
    pub first: u32,
    /// What becomes of an input that is too long.
    pub truncate: Truncation,
    /// How many numbers of each embedding are wanted; `None`: all.
    pub dimensions: Option<u32>,
}

/// What becomes of an input that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Truncation {
    /// It is refused.
    Refuse,
    /// Its end is cut off, to as many tokens as the model takes.
    ToModel,
    /// The same, to so many tokens; it is refused if the model takes fewer.
    To(u32),
}

/// Vectors of one length, in the order of the inputs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Embeddings {
    /// Of each input how many tokens it had.
    #[serde(deserialize_with = "limits::at_most::<_, _, MAX_EMBED_INPUTS>")]
    tokens: Vec<u32>,
    /// One vector behind the other.
    #[serde(deserialize_with = "limits::at_most::<_, _, MAX_EMBEDDING_VALUES>")]
    values: Vec<f32>,
}

impl EmbedInput {
    /// About the bytes that it takes, and a measure of the work that it is.
    pub fn approximate_bytes(&self) -> usize {
        self.inputs.iter().map(Prompt::approximate_bytes).sum()
    }
}

impl Embeddings {
    /// Adds the vector of an input of so many tokens. All have the same length.
    pub fn push(&mut self, tokens: u32, vector: &[f32]) {
        self.tokens.push(tokens);
        self.values.extend_from_slice(vector);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Of each input its tokens and its vector. A peer whose numbers don't fit gets vectors of which the last are short.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u32, &[f32])> {
        let width = self.values.len().div_ceil(self.tokens.len().max(1));
        self.tokens.iter().enumerate().map(move |(index, &tokens)| {
            let begin = (index * width).min(self.values.len());
            (tokens, &self.values[begin..self.values.len().min(begin + width)])
        })
    }

    /// Whether it may be sent.
    pub(super) fn is_within_limits(&self) -> bool {
        self.tokens.len() <= MAX_EMBED_INPUTS && self.values.len() <= MAX_EMBEDDING_VALUES
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn vectors_come_back_in_order_and_a_wrong_number_breaks_nothing() {
        let mut embeddings = Embeddings::default();
        assert!(embeddings.is_empty() && embeddings.iter().next().is_none());
        embeddings.push(3, &[1.0, 2.0]);
        embeddings.push(4, &[3.0, 4.0]);
        let expected: [(u32, &[f32]); 2] = [(3, &[1.0, 2.0]), (4, &[3.0, 4.0])];
        assert_eq!(embeddings.iter().collect::<Vec<_>>(), expected);
        for values in [vec![], vec![1.0], vec![1.0; 5]] {
            let wrong = Embeddings { values: values.clone(), ..embeddings.clone() };
            assert_eq!(wrong.iter().map(|(_, vector)| vector.len()).sum::<usize>(), values.len());
        }
        let none = Embeddings { tokens: Vec::new(), values: vec![1.0] };
        assert_eq!(none.iter().len(), 0);
    }
}
