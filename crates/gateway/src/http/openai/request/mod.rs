//! A body's fields: as typed, then what they mean. Nothing that would change the answer is silently ignored: what the
//! server can't do is refused by name.

mod bias;
mod choices;
mod fields;
mod foreign;
mod limits;
mod logprobs;
mod message;
mod output;
mod prompt;
mod sampling;
mod terms;
mod tool_call;
mod tools;

use self::{fields::Fields, prompt::text_prompt};
pub(super) use self::{
    fields::set,
    foreign::Foreign,
    message::{Message, chat_prompt},
    prompt::{PromptItem, TypedPrompt},
};
use crate::{
    http::{
        dialect::Asked,
        error::ApiError,
        json::{Flag, Object, Probe, Text, field, parse, unsupported},
    },
    serve::{Caller, Correlation, GenerateRequest, Prompt, Sampling},
};

/// What an answer repeats of its request, or depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Context {
    /// The model's name, as the client wrote it.
    pub(super) model: String,
    /// Send a chunk with the usage before the end of a stream.
    pub(super) include_usage: bool,
    /// Show how likely tokens were.
    pub(super) logprobs: bool,
    /// Choices of an answer that is not streamed: the best ones, if more are generated.
    pub(super) shown: usize,
}

/// The two kinds of completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Chat,
    Completion,
}

/// In what the fields of the two kinds of completion differ.
struct Rules {
    kind: Kind,
    default_max_tokens: Option<u32>,
    adds_special_tokens: bool,
}

/// The model's template adds the special tokens of a chat.
const CHAT: Rules = Rules { kind: Kind::Chat, default_max_tokens: None, adds_special_tokens: false };

/// OpenAI's default for a completion is 16 tokens.
const COMPLETION: Rules =
    Rules { kind: Kind::Completion, default_max_tokens: Some(16), adds_special_tokens: true };

/// What the body of a chat request asks for.
pub(super) fn chat(body: &[u8]) -> Result<Asked<Context>, ApiError> {
    let mut fields: Fields = parse(body)?;
    if fields.prompt.is_some() {
        return Err(field("prompt", "is a field of /v1/completions; send `messages`"));
    }
    let messages = fields.messages.take();
    fields.check(&CHAT, || chat_prompt(messages))
}

/// What the body of a completion request asks for.
pub(super) fn completion(body: &[u8]) -> Result<Asked<Context>, ApiError> {
    let mut fields: Fields = parse(body)?;
    if fields.messages.is_some() {
        return Err(field("messages", "is a field of /v1/chat/completions; send `prompt`"));
    }
    let prompt = fields.prompt.take();
    fields.check(&COMPLETION, || text_prompt(prompt))
}

impl Fields {
    /// What they ask for. `prompt` is read last: its errors are about the content, those of the fields about the request.
    fn check(
        mut self,
        rules: &Rules,
        prompt: impl FnOnce() -> Result<Prompt, ApiError>,
    ) -> Result<Asked<Context>, ApiError> {
        std::mem::take(&mut self.foreign).check()?;
        self.check_neutral(rules)?;
        let include_usage = self.include_usage()?;
        let logprobs = self.logprobs(rules.kind)?;
        let choices = self.choices(rules.kind)?;
        let echo = self.echo(rules.kind, logprobs.is_some())?;
        // The best are found by them.
        let needed = logprobs.or((choices.generated > choices.shown).then_some(0));
        let sampling = Sampling { logprobs: needed, ..self.sampling()? };
        let stop = self.stop()?;
        let output = self.output()?;
        let tools = self.tools(rules.kind)?;
        let stop_tokens = self.stop_tokens()?;
        let include_stop = self.include_stop_str_in_output.is_some_and(|Flag(include)| include);
        let max_tokens = self.max_tokens()?.unwrap_or(rules.default_max_tokens);
        let min_tokens = self.min_tokens(max_tokens)?;
        let model = match self.model.take() {
            Some(Text(model)) if !model.is_empty() => model,
            _ => return Err(field("model", "is required: name one of /v1/models")),
        };
        let context = Context {
            model: model.clone(),
            include_usage,
            logprobs: logprobs.is_some(),
            shown: choices.shown,
        };
        let stream = self.stream.is_some_and(|Flag(stream)| stream);
        let ignore_eos = self.ignore_eos.is_some_and(|Flag(ignore)| ignore);
        let (priority, timeout) = (self.priority(), self.timeout()?);
        let draft_model = self.draft_model.take().map(|Text(name)| name).filter(|name| !name.is_empty());
        let request = GenerateRequest {
            model,
            adapter: None,
            prompt: prompt()?,
            sampling,
            max_tokens,
            min_tokens,
            stop,
            stop_tokens,
            include_stop,
            ignore_eos,
            output,
            tools,
            priority,
            // These are not for the body to say.
            caller: Caller::default(),
            deadline: None,
            correlation: Correlation::default(),
        };
        Ok(Asked { request, choices: choices.generated, echo, stream, timeout, draft_model, context })
    }

    fn echo(&self, kind: Kind, logprobs: bool) -> Result<bool, ApiError> {
        let echo = self.echo.is_some_and(|Flag(echo)| echo);
        match kind {
            Kind::Chat if echo => Err(unsupported("echo", "repeating the prompt of a chat")),
            Kind::Completion if echo && logprobs => {
                let what = "log probabilities of the prompt; send `logprobs` without `echo`";
                Err(unsupported("echo", what))
            }
            _ => Ok(echo),
        }
    }

    fn include_usage(&mut self) -> Result<bool, ApiError> {
        let options = self.stream_options.take().map(|Object(options)| options).unwrap_or_default();
        if options.continuous_usage_stats.is_filled() && options.continuous_usage_stats != Probe::Flag(false)
        {
            return Err(unsupported("stream_options.continuous_usage_stats", "usage in every chunk"));
        }
        Ok(options.include_usage.is_some_and(|Flag(include)| include))
    }

    /// Checks fields that may only ask for what happens anyway.
    fn check_neutral(&self, rules: &Rules) -> Result<(), ApiError> {
        for (name, value) in
            [("add_special_tokens", self.add_special_tokens), ("add_bos_token", self.add_bos_token)]
        {
            if value.is_some_and(|Flag(adds)| adds != rules.adds_special_tokens) {
                return Err(unsupported(name, "choosing whether special tokens are added"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
