//! The prompt's text, for answers that begin with it.

use super::{app::App, error::ApiError};
use crate::serve::{
    GenerateRequest, Prompt,
    operation::{Answer, OperationKind, OperationRequest},
};

/// A prompt whose text is asked for, until the workers have accepted it.
pub(super) enum Echo {
    /// It is known.
    Text(String),
    /// A worker knows it.
    Tokens(OperationRequest),
}

impl Echo {
    /// Of the prompt of `request`. `None` for a chat, of which only messages are known.
    pub(super) fn of(request: &GenerateRequest) -> Option<Self> {
        let tokens = match &request.prompt {
            Prompt::Text(text) => return Some(Self::Text(text.clone())),
            Prompt::Tokens(tokens) => tokens.clone(),
            Prompt::Chat(_) => return None,
        };
        Some(Self::Tokens(OperationRequest {
            model: Some(request.model.clone()),
            kind: OperationKind::Detokenize { tokens, skip_special_tokens: false },
            urgent: request.priority.is_high(),
            deadline: request.deadline,
        }))
    }

    /// The text.
    ///
    /// # Errors
    /// Those of the operation that asks for it.
    pub(super) async fn text(self, app: &App) -> Result<String, ApiError> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Tokens(operation) => match app.operator.operate(operation).await?.answer {
                Answer::Text(text) => Ok(text),
                _ => Err(ApiError::Internal),
            },
        }
    }
}
