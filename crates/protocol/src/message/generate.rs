//! A request for text.

use serde::{Deserialize, Serialize};

use super::{Constraint, TraceContext};
use crate::ids::RequestId;

/// A generation, as the gateway understood it from the client's JSON. Values are already in range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    /// Names the stream that its events go to.
    pub id: RequestId,
    /// What to continue.
    pub prompt: Prompt,
    /// What the model computes it with, beside its own weights; `None`: nothing.
    pub adapter: Option<AdapterRef>,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Most tokens to generate; `None` leaves only the model's context as limit.
    pub max_tokens: Option<u32>,
    /// Before as many tokens, no token that ends the output is chosen and no text ends it.
    pub min_tokens: u32,
    /// Texts that end the generation; they are not part of its output, unless `include_stop` says so.
    pub stop: Vec<String>,
    /// Tokens that end the generation, in addition to the model's own; likewise.
    pub stop_tokens: Vec<u32>,
    /// What ends the generation is part of its output, as far as it has a text that is shown.
    pub include_stop: bool,
    /// Tokens that another worker has generated for this request already, and whose text has been delivered as far as it
    /// was certain. This worker continues behind them, as if it had generated them itself; they count towards
    /// `max_tokens`.
    pub resume: Vec<u32>,
    /// Generate past the model's end-of-sequence tokens, to `max_tokens` or the context's end.
    pub ignore_eos: bool,
    /// What the output has to be; `None` is any text. Where the model marks its answer, that has to be it.
    pub output: Option<Constraint>,
    /// The tools that a chat's answer may call: a list in JSON, for the model's chat template. `None`: there are none.
    pub tools: Option<String>,
    /// [`Delta`](super::Delta)s that may be sent before a [`Credit`](super::Submission::Credit) arrives.
    pub credit: u32,
    /// Where its spans belong, if somebody traces it.
    pub trace: Option<TraceContext>,
    /// What logs call it: the `x-request-id` of the HTTP request.
    pub correlation_id: Option<String>,
    /// When the client's request arrived, in microseconds of the gateway's own clock. Earlier ones go first, also where
    /// another worker continues them.
    pub arrived_micros: u64,
}

impl Generate {
    /// A greedy generation with no limits but the model's, for a stream that may be sent `credit` deltas at first.
    pub fn new(id: RequestId, prompt: Prompt, credit: u32) -> Self {
        Self {
            id,
            prompt,
            adapter: None,
            sampling: Sampling::default(),
            max_tokens: None,
            min_tokens: 0,
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            include_stop: false,
            resume: Vec::new(),
            ignore_eos: false,
            output: None,
            tools: None,
            credit,
            trace: None,
            correlation_id: None,
            arrived_micros: 0,
        }
    }
}

/// An adapter in the artifact store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterRef {
    /// Its name, for people.
    pub name: String,
    /// SHA-256 of its manifest, in hex.
    pub digest: String,
}

/// What a generation continues.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Prompt {
    /// Messages, rendered by the model's own chat template with a generation prompt.
    Chat(Vec<ChatMessage>),
    /// Text, tokenized as it is.
    Text(String),
    /// Token ids of the model's vocabulary.
    Tokens(Vec<u32>),
}

impl Prompt {
    /// About the bytes that it takes: a measure of the work that it is.
    pub fn approximate_bytes(&self) -> usize {
        match self {
            Self::Chat(messages) => messages.iter().map(ChatMessage::approximate_bytes).sum(),
            Self::Text(text) => text.len(),
            Self::Tokens(tokens) => size_of_val(tokens.as_slice()),
        }
    }
}

/// One message of a chat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant`, `tool`, or another role that the model's template knows.
    pub role: String,
    /// Its text.
    pub content: String,
    /// The speaker's name, where the template uses one.
    pub name: Option<String>,
    /// What an assistant thought before it wrote the text.
    pub reasoning: Option<String>,
    /// The tools that an assistant called.
    pub tool_calls: Vec<ToolCall>,
    /// The call whose result the text is.
    pub tool_call_id: Option<String>,
}

/// A call of a tool, in a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// By which its result refers to it.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// What it is called with, in JSON as far as the model wrote that.
    pub arguments: String,
}

impl ChatMessage {
    /// A message with nothing but a text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }

    /// About the bytes that it takes: its texts, and something for itself, as a list of many tiny ones is long as well.
    pub fn approximate_bytes(&self) -> usize {
        const ITSELF: usize = 64;
        ITSELF + self.texts().map(String::len).sum::<usize>() + ITSELF * self.tool_calls.len()
    }

    /// All of its texts; the first one is the role.
    pub fn texts(&self) -> impl Iterator<Item = &String> {
        let Self { role, content, name, reasoning, tool_calls, tool_call_id } = self;
        let calls = tool_calls.iter().flat_map(|call| [&call.id, &call.name, &call.arguments]);
        [role, content].into_iter().chain([name, reasoning, tool_call_id].into_iter().flatten()).chain(calls)
    }

    /// The same, in the same order.
    pub fn texts_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let Self { role, content, name, reasoning, tool_calls, tool_call_id } = self;
        let calls =
            tool_calls.iter_mut().flat_map(|call| [&mut call.id, &mut call.name, &mut call.arguments]);
        [role, content].into_iter().chain([name, reasoning, tool_call_id].into_iter().flatten()).chain(calls)
    }
}

/// How the next token is chosen from the logits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 takes the most likely token; otherwise logits are divided by it.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep tokens at least this likely, relative to the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Of what the other filters leave, keep the smallest set of tokens whose probability reaches this and that are as
    /// likely as could be expected; 1 keeps all.
    pub typical_p: f32,
    /// Divides (or multiplies, if negative) logits of tokens seen in prompt or output; 1 does nothing.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens already generated.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit for each time it was generated.
    pub frequency_penalty: f32,
    /// Added to single tokens' logits.
    pub logit_bias: Vec<(u32, f32)>,
    /// With the position, the whole state of the random choice: the same seed gives the same tokens.
    pub seed: u64,
    /// Say of each token how likely it was, and the same of so many of the most likely ones; `None` says nothing.
    pub logprobs: Option<u8>,
}

impl Default for Sampling {
    /// Greedy, with every filter and penalty off.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            logprobs: None,
        }
    }
}
