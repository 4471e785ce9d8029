//! Chat templates: the model's own Jinja template, as Hugging Face's `apply_chat_template` runs it.

use minijinja::{Environment, Error, ErrorKind, Value, context, syntax::SyntaxConfig};
use protocol::message::ChatMessage;

const NAME: &str = "chat";

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// Compiles `source`.
    ///
    /// # Errors
    /// The template's syntax is wrong.
    pub fn new(source: String, bos_token: String, eos_token: String) -> Result<Self, Error> {
        let mut environment = Environment::new();
        // What transformers' environment sets, and templates count on.
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_template_owned(NAME, source)?;
        Ok(Self { environment, bos_token, eos_token })
    }

    /// The prompt for an answer to `messages`.
    ///
    /// # Errors
    /// The template refuses the messages (for example an unknown role), or fails on them.
    pub fn render(&self, messages: &[ChatMessage]) -> Result<String, Error> {
        let messages: Vec<Value> = messages.iter().map(message).collect();
        self.environment.get_template(NAME)?.render(context! {
            messages,
            add_generation_prompt => true,
            bos_token => &self.bos_token,
            eos_token => &self.eos_token,
        })
    }
}

fn message(message: &ChatMessage) -> Value {
    match &message.name {
        Some(name) => context! { role => &message.role, content => &message.content, name },
        None => context! { role => &message.role, content => &message.content },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn chat(role: &str, content: &str) -> ChatMessage {
        ChatMessage { role: role.into(), content: content.into(), name: None }
    }

    #[test]
    fn renders_what_templates_use() {
        let source = "{{ bos_token }}{% for m in messages %}\n  {% if m['role'].startswith('sys') %}S{% else %}\
                      {{ m.role | upper }}{% endif %}:{{ m.content.strip() }}\n{% endfor %}\
                      {% if add_generation_prompt %}A:{% endif %}";
        let template = ChatTemplate::new(source.into(), "<s>".into(), "</s>".into()).unwrap();
        let text = template.render(&[chat("system", " be brief "), chat("user", "hi")]).unwrap();
        assert_eq!(text, "<s>S:be brief\nUSER:hi\nA:");
    }

    #[test]
    fn a_template_can_refuse() {
        let source = "{{ raise_exception('roles must alternate') }}";
        let template = ChatTemplate::new(source.into(), String::new(), String::new()).unwrap();
        let error = template.render(&[]).unwrap_err();
        assert!(error.to_string().contains("roles must alternate"), "{error}");
    }
}
