//! One request becomes one sequence.

use std::sync::Arc;

use chat::Format;
use protocol::message::{AdapterRef, ChatMessage, Failure, FailureKind, Generate, Prompt};

use super::{
    constraint::{Constraints, Vocabulary},
    control::{ControlTokens, Conversation, Disguised},
    draft::Drafts,
    template::{Chat, ChatTemplates},
    tokens::{PromptTokenizer, no_memory, not_encoded, too_long},
};
use crate::{
    adapters::Adapters,
    constraint::Constraint,
    engine::{
        EosTokens, Sequence,
        emit::{Emitter, Ends},
    },
    model::{Adapter, Dimensions},
    request_trace::{RequestTrace, SequenceSpans},
    requests::RequestHandle,
    sample::Sampler,
};

/// What is known of a model, apart from its tokenizer and its weights.
#[derive(Debug)]
pub struct Settings {
    /// Its chat templates; base models have none.
    pub template: Option<ChatTemplates>,
    /// Tokens that end an output.
    pub eos_tokens: EosTokens,
    /// Most tokens of prompt and output together, as the model has it.
    pub context_length: usize,
    /// Tokens, of all sequences together, for whose keys and values there is memory.
    pub kv_tokens: usize,
    /// Number of token ids: rows of the embedding.
    pub vocab_size: u32,
    /// Whether the text of a special token in a chat's message is that token, as transformers has it. Then a
    /// message can end its turn and forge others.
    pub special_tokens_in_content: bool,
    /// Of a model that embeds text, and does nothing else: what lengths its embeddings may have.
    pub embedding: Option<Dimensions>,
}

impl Settings {
    /// Most tokens that a sequence can have: of the model, and for which there is memory.
    pub(super) fn most_tokens(&self) -> usize {
        self.context_length.min(self.kv_tokens)
    }
}

/// What preparation knows of the model: everything but its weights.
#[derive(Debug)]
pub struct Preparer {
    pub(super) tokenizer: PromptTokenizer,
    pub(super) settings: Settings,
    /// In which the model answers chats.
    format: &'static Format,
    /// The control tokens that messages must not contain.
    control: Option<ControlTokens>,
    constraints: Constraints,
    /// Where draft models are looked up.
    pub(super) drafts: Option<Box<dyn Drafts>>,
    /// Those of the model.
    adapters: Option<Adapters>,
}

impl Preparer {
    /// Prepares for one model.
    pub fn new(tokenizer: PromptTokenizer, settings: Settings) -> Self {
        let Settings { template, eos_tokens, vocab_size, special_tokens_in_content, .. } = &settings;
        let control = (!special_tokens_in_content)
            .then(|| ControlTokens::of(tokenizer.tokenizer(), eos_tokens, template.as_ref(), *vocab_size))
            .flatten();
        let format = template.as_ref().map_or(&chat::PLAIN, ChatTemplates::format);
        Self {
            tokenizer,
            format,
            settings,
            control,
            constraints: Constraints::default(),
            drafts: None,
            adapters: None,
        }
    }

    /// Which looks up draft models in `drafts`.
    #[must_use]
    pub fn with_drafts(self, drafts: Box<dyn Drafts>) -> Self {
        Self { drafts: Some(drafts), ..self }
    }

    /// Which gives sequences their adapters.
    #[must_use]
    pub fn with_adapters(self, adapters: Adapters) -> Self {
        Self { adapters: Some(adapters), ..self }
    }

    /// Turns a request into a sequence that can be scheduled. One that is resumed is in the state that it had after the
    /// tokens that another worker generated, and emits nothing of them.
    ///
    /// # Errors
    /// The request can't be served by this model; the failure names the field to blame.
    pub fn prepare(&self, generate: Generate, request: Arc<RequestHandle>) -> Result<Sequence, Failure> {
        if self.settings.embedding.is_some() {
            let message = "this model embeds text and generates none; send the text to `/v1/embeddings`";
            return Err(invalid("model", message));
        }
        self.check_bias(&generate.sampling.logit_bias)?;
        self.check_vocabulary("stop_token_ids", generate.stop_tokens.iter().copied())?;
        let format = self.format_of(&generate)?;
        let tokens = self.encode(&generate.prompt, generate.tools.as_deref(), true, true)?;
        if tokens.is_empty() {
            return Err(invalid(
                param(&generate.prompt),
                "the prompt is empty: there is nothing to continue",
            ));
        }
        let room = self.room(tokens.len(), generate.max_tokens, &generate.prompt)?;
        let constraint = self.constraint(&generate, format)?;
        let adapter = generate.adapter.as_ref().map(|wanted| self.adapter(wanted)).transpose()?;
        let eos_tokens = self.end_tokens(&generate, constraint.is_some());
        let ends = Ends { min_tokens: generate.min_tokens, shown: generate.include_stop };
        let spans = SequenceSpans::new(RequestTrace::new(&generate));
        let mut sampler = Sampler::new(generate.sampling, &tokens);
        if ends.min_tokens > 0 {
            sampler =
                sampler.with_least(tokens.len() as u64 + u64::from(ends.min_tokens), eos_tokens.shared());
        }
        let mut sequence = Sequence {
            id: generate.id,
            arrived_micros: generate.arrived_micros,
            request,
            adapter,
            prompt_len: tokens.len(),
            max_len: tokens.len() + room,
            eos_tokens,
            sampler,
            constraint,
            emitter: Emitter::new(Arc::clone(self.tokenizer.tokenizer()), &generate.stop)
                .with_ends(ends)
                .with_format(format),
            tokens,
            ended: None,
            spans,
        };
        self.resume(&mut sequence, &generate.resume)?;
        Ok(sequence)
    }

    /// The format of the output that a request asks for. What continues a text is text.
    fn format_of(&self, generate: &Generate) -> Result<&'static Format, Failure> {
        let format = if let Prompt::Chat(_) = generate.prompt { self.format } else { &chat::PLAIN };
        if generate.tools.is_some() && !format.has_calls {
            let message = "this model's calls of tools can't be told from its text; of the models that this server \
                           runs, those of the family gpt-oss can call tools";
            return Err(invalid("tools", message));
        }
        match &generate.output {
            Some(output) if generate.tools.is_some() => {
                let message =
                    "an answer that has to be of a certain form calls no tools: send `tools` without it";
                Err(invalid(&output.param, message))
            }
            _ => Ok(format),
        }
    }

    fn adapter(&self, wanted: &AdapterRef) -> Result<Arc<Adapter>, Failure> {
        let Some(adapters) = &self.adapters else {
            let message = format!("the adapter `{}` can't be used: this worker has none", wanted.name);
            return Err(Failure { kind: FailureKind::Internal, param: Some("model".into()), message });
        };
        adapters.provide(wanted)
    }

    fn end_tokens(&self, generate: &Generate, constrained: bool) -> EosTokens {
        // Under a constraint the model's come only where the output ends.
        let ignores = generate.ignore_eos && !constrained;
        let eos_tokens = if ignores { EosTokens::default() } else { self.settings.eos_tokens.clone() };
        eos_tokens.and(&generate.stop_tokens)
    }

    fn constraint(&self, generate: &Generate, format: &Format) -> Result<Option<Constraint>, Failure> {
        let compile = |asked| {
            let Settings { vocab_size: size, eos_tokens, .. } = &self.settings;
            let vocabulary = Vocabulary { tokenizer: self.tokenizer.tokenizer(), size: *size, eos_tokens };
            self.constraints.compile(asked, format.around_answer, generate.ignore_eos, vocabulary)
        };
        generate.output.as_ref().map(compile).transpose()
    }

    /// What was generated elsewhere does not come from the client, so nothing about it is the client's fault.
    fn resume(&self, sequence: &mut Sequence, generated: &[u32]) -> Result<(), Failure> {
        let failure = |message: String| Failure { kind: FailureKind::Internal, param: None, message };
        if let Some(token) = generated.iter().find(|&&token| token >= self.settings.vocab_size) {
            return Err(failure(format!("can't go on after token {token}, which this model does not have")));
        }
        sequence.resume(generated).map_err(|error| {
            failure(format!("can't go on after what was generated: {:#}", anyhow::Error::new(error)))
        })
    }

    /// Token ids of a prompt, all of which the model has. `add_special_tokens` is for texts: in chats the template
    /// writes them, and with `add_generation_prompt` the beginning of an answer.
    pub(super) fn encode(
        &self,
        prompt: &Prompt,
        tools: Option<&str>,
        add_special_tokens: bool,
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>, Failure> {
        let tokens = match prompt {
            Prompt::Chat(messages) => self.chat(Conversation { messages, tools }, add_generation_prompt)?,
            Prompt::Text(text) => {
                self.check_length(text, prompt)?;
                let tokens = self.tokenizer.encode(text, add_special_tokens);
                tokens.map_err(|error| not_encoded(&error, "prompt"))?
            }
            Prompt::Tokens(tokens) => tokens.clone(),
        };
        self.check_rows(&tokens, prompt)?;
        Ok(tokens)
    }

    fn chat(&self, conversation: Conversation<'_>, add_generation_prompt: bool) -> Result<Vec<u32>, Failure> {
        let check = |text: &str| self.tokenizer.check_length(text, self.settings.most_tokens(), "messages");
        // The template writes the special tokens itself.
        let tokens = match self.rendered(conversation, add_generation_prompt)? {
            (text, Some(disguised)) => {
                check(&disguised.reveal(&text))?;
                disguised.encode(self.tokenizer.tokenizer(), &text)
            }
            (text, None) => {
                check(&text)?;
                self.tokenizer.encode(&text, false)
            }
        };
        tokens.map_err(|error| not_encoded(&error, "messages"))
    }

    /// What the template makes of the messages; if control tokens were typed in them, still with their disguise.
    pub(super) fn rendered(
        &self,
        conversation: Conversation<'_>,
        add_generation_prompt: bool,
    ) -> Result<(String, Option<Disguised>), Failure> {
        let template = self.settings.template.as_ref().ok_or_else(|| {
            invalid("messages", "this model has no chat template; use /v1/completions with a prompt")
        })?;
        let render = |Conversation { messages, tools }: Conversation<'_>| {
            let mut messages = messages.to_vec();
            if self.format.one_text_beside_calls {
                messages.iter_mut().for_each(join_texts);
            }
            let chat = Chat { add_generation_prompt, ..Chat::of(&messages) };
            let tools = tools
                .map(serde_json::from_str)
                .transpose()
                .map_err(|error| invalid("tools", format!("they are not a list in JSON: {error}")))?;
            template.render_chat(&chat.with_tools(tools.unwrap_or_default())).map_err(|error| error.failure())
        };
        let disguised = match &self.control {
            Some(control) => control.disguise(conversation).map_err(|_| {
                invalid("messages", "they use all characters for private use; none is left to work with")
            })?,
            None => None,
        };
        let Some(disguised) = disguised else { return Ok((render(conversation)?, None)) };
        let text = render(disguised.conversation()).map_err(|mut failure| {
            failure.message = disguised.reveal(&failure.message);
            failure
        })?;
        Ok((text, Some(disguised)))
    }

    fn check_length(&self, text: &str, prompt: &Prompt) -> Result<(), Failure> {
        self.tokenizer.check_length(text, self.settings.most_tokens(), param(prompt))
    }

    /// Ids that the model has no row for would fail the step that they are in, with all requests in it. A tokenizer
    /// may produce them as well: some have tokens that were added after training.
    fn check_rows(&self, tokens: &[u32], prompt: &Prompt) -> Result<(), Failure> {
        let vocab_size = self.settings.vocab_size;
        let Some(bad) = tokens.iter().find(|&&token| token >= vocab_size) else { return Ok(()) };
        let text = match prompt {
            Prompt::Tokens(_) => None,
            Prompt::Chat(_) | Prompt::Text(_) => self.tokenizer.tokenizer().id_to_token(*bad),
        };
        let what =
            text.map_or_else(|| format!("token {bad}"), |text| format!("the text {text:?}, token {bad},"));
        let message = format!("{what} is not in the model's vocabulary of {vocab_size} tokens");
        Err(invalid(param(prompt), message))
    }

    /// How many tokens follow a prompt of `len` tokens, at most `asked`. The model's context ends an answer earlier than it
    /// was asked for; that there is no memory for what the context would allow is an error.
    fn room(&self, len: usize, asked: Option<u32>, prompt: &Prompt) -> Result<usize, Failure> {
        let Settings { context_length, kv_tokens, .. } = self.settings;
        let Some(room) = context_length.checked_sub(len).filter(|room| *room > 0) else {
            return Err(too_long(context_length, &len.to_string(), param(prompt)));
        };
        let in_memory = kv_tokens.saturating_sub(len).min(room);
        let wanted = asked.map(|asked| room.min(asked as usize));
        match wanted {
            _ if in_memory == 0 => Err(no_memory(kv_tokens, len, None, param(prompt))),
            Some(wanted) if wanted > in_memory => Err(no_memory(kv_tokens, len, Some(wanted), "max_tokens")),
            wanted => Ok(wanted.unwrap_or(in_memory)),
        }
    }

    fn check_bias(&self, bias: &[(u32, f32)]) -> Result<(), Failure> {
        self.check_vocabulary("logit_bias", bias.iter().map(|&(token, _)| token))
    }

    fn check_vocabulary(&self, param: &str, mut tokens: impl Iterator<Item = u32>) -> Result<(), Failure> {
        let size = self.settings.vocab_size;
        match tokens.find(|&token| token >= size) {
            Some(token) => {
                let problem = format!("token {token} is not in the model's vocabulary of {size} tokens");
                Err(invalid(param, problem))
            }
            None => Ok(()),
        }
    }
}

/// Makes one text of what an assistant thought and said before it called a tool.
fn join_texts(message: &mut ChatMessage) {
    if let Some(reasoning) = &mut message.reasoning
        && !message.tool_calls.is_empty()
        && !message.content.is_empty()
    {
        reasoning.push('\n');
        reasoning.push_str(&std::mem::take(&mut message.content));
    }
}

pub(super) fn param(prompt: &Prompt) -> &'static str {
    match prompt {
        Prompt::Chat(_) => "messages",
        Prompt::Text(_) | Prompt::Tokens(_) => "prompt",
    }
}

pub(super) fn invalid(param: &str, message: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::InvalidRequest, param: Some(param.into()), message: message.into() }
}
