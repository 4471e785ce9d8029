//! `POST /v1/tokenize` and `/tokenize`: vLLM's forms, with a prompt or with messages, and llama.cpp's, with a content.

use serde::{Serialize, Serializer, ser::SerializeSeq};

use super::{
    super::request::chat_prompt, Asked, Endpoint, fields::TokenizeFields, json, optional_model,
    required_model,
};
use crate::{
    http::{
        error::ApiError,
        json::{Flag, Text, field, parse, unsupported},
    },
    serve::{
        Prompt,
        operation::{Answer, Answered, OperationKind, PieceForm, Pieces, TokenizeInput},
    },
};

pub(super) struct Tokenize;

/// Whose form the request has, and so the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Vllm,
    LlamaCpp,
}

/// As vLLM has it.
#[derive(Serialize)]
struct Counted<'a> {
    count: usize,
    max_model_len: u32,
    tokens: Tokens<'a>,
    token_strs: Option<Strings<'a>>,
}

/// As llama.cpp has it.
#[derive(Serialize)]
struct Plain<T> {
    tokens: T,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Tokens<'a> {
    Ids(&'a [u32]),
    OfPieces(Ids<'a>),
}

/// The ids of pieces.
struct Ids<'a>(&'a Pieces);

/// The texts of pieces.
struct Strings<'a>(&'a Pieces);

/// Pieces as objects with an id and a piece.
struct Objects<'a>(&'a Pieces);

#[derive(Serialize)]
struct Object<'a> {
    id: u32,
    piece: Piece<'a>,
}

/// A part of a character is a list of bytes.
#[derive(Serialize)]
#[serde(untagged)]
enum Piece<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl Endpoint for Tokenize {
    type Form = Form;

    fn read(body: &[u8]) -> Result<Asked<Form>, ApiError> {
        let mut fields: TokenizeFields = parse(body)?;
        std::mem::take(&mut fields.foreign).check()?;
        match (fields.prompt.is_some(), fields.messages.is_some(), fields.content.is_some()) {
            (true, false, false) => fields.prompt(),
            (false, true, false) => fields.messages(),
            (false, false, true) => fields.content(),
            (false, false, false) => {
                Err(field("prompt", "is required; or send `messages`, or llama.cpp's `content`"))
            }
            _ => Err(field("prompt", "send only one of `prompt`, `messages` and `content`")),
        }
    }

    fn write(form: Form, answered: Answered) -> Result<Vec<u8>, ApiError> {
        let max_model_len = answered.model.context_length;
        match (form, &answered.answer) {
            (Form::Vllm, Answer::Tokens(ids)) => {
                json(&Counted { count: ids.len(), max_model_len, tokens: Tokens::Ids(ids), token_strs: None })
            }
            (Form::Vllm, Answer::Pieces(pieces)) => json(&Counted {
                count: pieces.len(),
                max_model_len,
                tokens: Tokens::OfPieces(Ids(pieces)),
                token_strs: Some(Strings(pieces)),
            }),
            (Form::LlamaCpp, Answer::Tokens(tokens)) => json(&Plain { tokens }),
            (Form::LlamaCpp, Answer::Pieces(pieces)) => json(&Plain { tokens: Objects(pieces) }),
            _ => Err(ApiError::Internal),
        }
    }
}

impl TokenizeFields {
    fn prompt(mut self) -> Result<Asked<Form>, ApiError> {
        self.refuse_flags_of(
            "messages",
            &[
                ("add_generation_prompt", self.add_generation_prompt),
                ("continue_final_message", self.continue_final_message),
            ],
        )?;
        let Text(prompt) = self.prompt.take().unwrap_or(Text(String::new()));
        self.vllm(Prompt::Text(prompt), true)
    }

    fn messages(mut self) -> Result<Asked<Form>, ApiError> {
        if is_set(self.continue_final_message) {
            return Err(unsupported("continue_final_message", "continuing the last message"));
        }
        if is_set(self.add_special_tokens) {
            return Err(unsupported(
                "add_special_tokens",
                "adding special tokens to those that the chat template writes",
            ));
        }
        let messages = self.messages.take();
        self.vllm(chat_prompt(messages)?, false)
    }

    fn vllm(mut self, prompt: Prompt, add_special_tokens: bool) -> Result<Asked<Form>, ApiError> {
        self.refuse_flags_of(
            "content",
            &[
                ("add_special", self.add_special),
                ("parse_special", self.parse_special),
                ("with_pieces", self.with_pieces),
            ],
        )?;
        let input = TokenizeInput {
            prompt,
            add_special_tokens: self.add_special_tokens.map_or(add_special_tokens, |Flag(adds)| adds),
            add_generation_prompt: self.add_generation_prompt.is_none_or(|Flag(adds)| adds),
        };
        let pieces = is_set(self.return_token_strs).then_some(PieceForm::Vocabulary);
        let model = Some(required_model(self.model.take())?);
        Ok(Asked { model, kind: kind(input, pieces), form: Form::Vllm })
    }

    fn content(self) -> Result<Asked<Form>, ApiError> {
        self.refuse_flags_of(
            "prompt",
            &[
                ("add_special_tokens", self.add_special_tokens),
                ("add_generation_prompt", self.add_generation_prompt),
                ("continue_final_message", self.continue_final_message),
                ("return_token_strs", self.return_token_strs),
            ],
        )?;
        if self.parse_special == Some(Flag(false)) {
            return Err(unsupported("parse_special", "reading the text of special tokens as text"));
        }
        let Text(content) = self.content.unwrap_or(Text(String::new()));
        let add_special_tokens = is_set(self.add_special);
        let input = TokenizeInput { add_special_tokens, ..TokenizeInput::new(Prompt::Text(content)) };
        let pieces = is_set(self.with_pieces).then_some(PieceForm::Bytes);
        Ok(Asked { model: optional_model(self.model), kind: kind(input, pieces), form: Form::LlamaCpp })
    }

    /// Fields that another form has, with `other`.
    fn refuse_flags_of(&self, other: &str, flags: &[(&str, Option<Flag>)]) -> Result<(), ApiError> {
        match flags.iter().find(|(_, flag)| flag.is_some()) {
            Some((name, _)) => Err(field(name, format!("is a field of requests with `{other}`"))),
            None => Ok(()),
        }
    }
}

fn is_set(flag: Option<Flag>) -> bool {
    flag.is_some_and(|Flag(set)| set)
}

fn kind(input: TokenizeInput, pieces: Option<PieceForm>) -> OperationKind {
    match pieces {
        Some(form) => OperationKind::Pieces { input, form },
        None => OperationKind::Tokenize(input),
    }
}

impl Serialize for Ids<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|(token, _)| token))
    }
}

impl Serialize for Strings<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for (_, bytes) in self.0.iter() {
            list.serialize_element(&String::from_utf8_lossy(bytes))?;
        }
        list.end()
    }
}

impl Serialize for Objects<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let piece = |bytes| std::str::from_utf8(bytes).map_or(Piece::Bytes(bytes), Piece::Text);
        serializer.collect_seq(self.0.iter().map(|(id, bytes)| Object { id, piece: piece(bytes) }))
    }
}
