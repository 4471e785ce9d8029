//! Chat templates: the model's own Jinja template, as Hugging Face's `apply_chat_template` runs it.
//!
//! A template is untrusted code. It runs on a thread with its own stack and a limited amount of work, so that whatever it
//! does, at worst one request fails.

mod arguments;
mod chat;
mod checks;
mod clock;
mod dict;
mod edit;
mod environment;
mod error;
mod filters;
mod grammar;
mod json;
mod methods;
mod named;
mod operators;
mod rewrite;
mod scan;
mod statements;
mod texts;
mod turn;
mod values;

use std::{collections::BTreeMap, io, panic, thread};

pub use chat::Chat;
pub use clock::Clock;
pub use error::{TemplateError, Unusable};
use minijinja::{Environment, Value};
pub use named::ChatTemplates;
use protocol::message::ChatMessage;

use self::{environment::NAME, error::MAX_OUTPUT};

/// The stack on which a template is compiled and run. Nested lists are freed by recursion, some hundred bytes a level,
/// and the limits below allow two million levels. Only what is touched takes memory.
const STACK_BYTES: usize = 512 << 20;

/// Work that every render may do, in the engine's units (an instruction, or 64 bytes). Real templates need a few thousand.
const BASE_FUEL: u64 = 1_000_000;

/// Additional work for each message; some templates look at all messages for each of them.
const FUEL_PER_MESSAGE: u64 = 2_000;

/// Upper limit of both together: it bounds memory too.
const MAX_FUEL: u64 = 4_000_000;

/// Texts of a model's special tokens, by the names that templates have for them: `bos_token`, …
pub type SpecialTokens = BTreeMap<String, String>;

/// A chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    compiled: Result<Environment<'static>, Unusable>,
    source: Box<str>,
    special_tokens: SpecialTokens,
}

impl ChatTemplate {
    /// Compiles `source`. A template that does not compile fails chats, and nothing else: see [`ChatTemplate::problem`].
    pub fn new(source: &str, special_tokens: SpecialTokens) -> Self {
        Self::with_clock(source, special_tokens, clock::local())
    }

    /// With another clock for `strftime_now`.
    pub fn with_clock(source: &str, special_tokens: SpecialTokens, clock: Clock) -> Self {
        let compiled = on_own_stack(|| environment::environment(source, clock)).unwrap_or_else(|error| {
            Err(Unusable::Syntax(format!("there is no thread to compile it: {error}")))
        });
        Self { compiled, source: source.into(), special_tokens }
    }

    /// Why it can't be used.
    pub fn problem(&self) -> Option<&Unusable> {
        self.compiled.as_ref().err()
    }

    /// Its source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt for an answer to `messages`.
    ///
    /// # Errors
    /// The template refuses the messages (for example an unknown role), or fails on them.
    pub fn render(&self, messages: &[ChatMessage]) -> Result<String, TemplateError> {
        self.render_chat(&Chat::of(messages))
    }

    /// The prompt for a conversation with all that a template may look at.
    ///
    /// # Errors
    /// The template refuses the conversation, or fails on it.
    pub fn render_chat(&self, chat: &Chat) -> Result<String, TemplateError> {
        let environment =
            self.compiled.as_ref().map_err(|problem| TemplateError::Unusable(problem.clone()))?;
        on_own_stack(|| self.run(environment, chat))
            .unwrap_or_else(|error| Err(TemplateError::no_thread(&error)))
    }

    fn run(&self, environment: &Environment<'static>, chat: &Chat) -> Result<String, TemplateError> {
        let mut environment = environment.clone();
        environment.set_fuel(Some(
            MAX_FUEL.min(BASE_FUEL + FUEL_PER_MESSAGE.saturating_mul(chat.messages.len() as u64)),
        ));
        let variables = chat.variables(&self.special_tokens);
        let mut prompt = Bounded::default();
        let template = environment.get_template(NAME).map_err(|error| TemplateError::of(&error))?;
        let rendered = template.render_captured_to(Value::from_pairs(variables), &mut prompt);
        match rendered {
            _ if prompt.full => Err(TemplateError::too_long()),
            Err(error) => Err(TemplateError::of(&error)),
            Ok(_) => Ok(String::from_utf8_lossy(&prompt.bytes).into_owned()),
        }
    }
}

/// Runs `work` on a thread with a large stack, and panics as it does.
fn on_own_stack<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("template".into()).stack_size(STACK_BYTES);
        let running = thread.spawn_scoped(scope, work)?;
        Ok(running.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked)))
    })
}

/// A prompt that does not grow over its limit.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT {
            self.full = true;
            return Err(io::Error::other("the prompt is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
