//! What the gateway asks of the threads that prepare.

use protocol::{
    ids::RequestId,
    message::{Generate, Operation, OperationKind, Prompt},
};
use tracing::{Span, debug_span};

use crate::request_trace::RequestTrace;

/// A request that waits for preparation.
#[derive(Debug)]
pub enum Work {
    /// To become a sequence of the engine.
    Generate(Box<Generate>),
    /// To be answered at once.
    Operation(Box<Operation>),
}

/// What a message of a chat costs beside its text: a list of many tiny ones is long as well.
const MESSAGE_BYTES: usize = 64;

impl Work {
    /// Names the request.
    pub fn id(&self) -> RequestId {
        match self {
            Self::Generate(generate) => generate.id,
            Self::Operation(operation) => operation.id,
        }
    }

    /// The span of its preparation.
    pub(super) fn span(&self) -> Span {
        match self {
            Self::Generate(generate) => RequestTrace::new(generate).prepare(),
            Self::Operation(operation) => debug_span!("prepare", id = operation.id.0),
        }
    }

    /// Bytes that it holds while it waits, and a measure of the work that it is.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Generate(generate) => {
                let bias = size_of_val(generate.sampling.logit_bias.as_slice());
                let resume = size_of_val(generate.resume.as_slice());
                let stop = generate.stop.iter().map(String::len).sum::<usize>();
                prompt_bytes(&generate.prompt) + stop + bias + resume
            }
            Self::Operation(operation) => match &operation.kind {
                OperationKind::Tokenize(input) | OperationKind::Count(input) => prompt_bytes(&input.prompt),
                OperationKind::Detokenize { tokens, .. } => size_of_val(tokens.as_slice()),
            },
        }
    }
}

fn prompt_bytes(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Chat(messages) => messages
            .iter()
            .map(|message| {
                let name = message.name.as_ref().map_or(0, String::len);
                MESSAGE_BYTES + message.role.len() + message.content.len() + name
            })
            .sum(),
        Prompt::Text(text) => text.len(),
        Prompt::Tokens(tokens) => size_of_val(tokens.as_slice()),
    }
}
