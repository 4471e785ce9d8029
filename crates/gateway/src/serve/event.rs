//! What a generation brings, whichever dialect tells the client.

pub use protocol::message::{
    DeltaText, FinishReason, MAX_TOP_LOGPROBS, OutputPart, TokenLogprob, TokenLogprobs, Usage,
};

/// One thing that happened to a generation. Any number of deltas come first, then one [`OutputEvent::Finish`], unless
/// an error ends the generation.
#[derive(Clone, Debug, PartialEq)]
pub enum OutputEvent {
    /// What follows what came before.
    Delta {
        /// More of the answer, in whole characters. If it and `parts` are empty, there are log probabilities, of tokens
        /// whose text is not certain yet.
        text: DeltaText,
        /// What follows, in order, if the model marks parts of its output.
        parts: Vec<OutputPart>,
        /// How likely tokens were, if the request asks for it.
        logprobs: Vec<TokenLogprobs>,
    },
    /// The generation ended by itself. Nothing follows.
    Finish {
        /// Why it ended.
        reason: FinishReason,
        /// Tokens that it used.
        usage: Usage,
    },
}

/// All that a generation brought, for an answer that is not streamed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// The answer.
    pub text: String,
    /// What the model thought before it, if it marks that.
    pub reasoning: String,
    /// The tools that it called: their names and arguments.
    pub calls: Vec<Call>,
    /// How likely its tokens were, if the request asks for it.
    pub logprobs: Vec<TokenLogprobs>,
    /// Why it ended; `None` before that.
    pub reason: Option<FinishReason>,
    /// Tokens that it used.
    pub usage: Usage,
}

/// A call of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The tool's name.
    pub name: String,
    /// JSON, as far as the model wrote that.
    pub arguments: String,
}

impl Output {
    /// Takes what comes next.
    pub(super) fn add(&mut self, event: OutputEvent) {
        match event {
            OutputEvent::Delta { text, parts, logprobs } => {
                self.text.push_str(&text);
                parts.into_iter().for_each(|part| self.add_part(part));
                self.logprobs.extend(logprobs);
            }
            OutputEvent::Finish { reason, usage } => {
                self.reason = Some(reason);
                self.usage = usage;
            }
        }
    }
    fn add_part(&mut self, part: OutputPart) {
        match part {
            OutputPart::Text(text) => self.text.push_str(&text),
            OutputPart::Reasoning(text) => self.reasoning.push_str(&text),
            OutputPart::CallStart { name, .. } => self.calls.push(Call { name, ..Call::default() }),
            // They belong to the call that has started last.
            OutputPart::CallArguments { json, .. } => {
                if let Some(call) = self.calls.last_mut() {
                    call.arguments.push_str(&json);
                }
            }
        }
    }
}
