//! A model's chat templates by name, of which a conversation chooses one.

use chat::Format;

use super::{Chat, ChatTemplate, SpecialTokens, TemplateError, Unusable};

/// The template for conversations with tools.
const TOOL_USE: &str = "tool_use";

/// A model's chat templates. Most models have one.
#[derive(Debug)]
pub struct ChatTemplates {
    default: Option<ChatTemplate>,
    /// For conversations with tools.
    tool_use: Option<ChatTemplate>,
    /// Names of those that no conversation chooses.
    others: Vec<String>,
}

impl ChatTemplates {
    /// Compiles the default template and the one for tools; `None` if there are no templates at all.
    pub fn new<'a>(
        default: Option<&str>,
        named: impl IntoIterator<Item = (&'a str, &'a str)>,
        special_tokens: &SpecialTokens,
    ) -> Option<Self> {
        let compile = |source: &str| ChatTemplate::new(source, special_tokens.clone());
        let mut templates = Self { default: default.map(compile), tool_use: None, others: Vec::new() };
        for (name, source) in named {
            match name {
                TOOL_USE => templates.tool_use = Some(compile(source)),
                other => templates.others.push(other.to_owned()),
            }
        }
        let any = templates.compiled().next().is_some() || !templates.others.is_empty();
        any.then_some(templates)
    }

    /// Why templates can't be used, if any can't.
    pub fn problems(&self) -> impl Iterator<Item = &Unusable> {
        self.compiled().filter_map(ChatTemplate::problem)
    }

    /// Whether `text` stands in a template.
    pub fn contain(&self, text: &str) -> bool {
        self.compiled().any(|template| template.source().contains(text))
    }

    /// In which format a model writes whose templates these are.
    pub fn format(&self) -> &'static Format {
        let formats = self.compiled().map(|template| Format::of_template(template.source()));
        formats.min_by_key(|format| format.is_plain()).unwrap_or(&chat::PLAIN)
    }

    /// The prompt for a conversation.
    ///
    /// # Errors
    /// No template is for it, or that template refuses it or fails on it.
    pub fn render_chat(&self, chat: &Chat) -> Result<String, TemplateError> {
        self.template_for(chat)?.render_chat(chat)
    }

    /// As transformers chooses: whether there is a list of tools decides, even an empty one.
    fn template_for(&self, chat: &Chat) -> Result<&ChatTemplate, TemplateError> {
        let tool_use = self.tool_use.as_ref().filter(|_| !chat.tools.is_null());
        tool_use.or(self.default.as_ref()).ok_or_else(|| TemplateError::NoDefault(self.names()))
    }

    fn compiled(&self) -> impl Iterator<Item = &ChatTemplate> {
        self.default.iter().chain(&self.tool_use)
    }

    /// Names of the templates that are not the default one.
    fn names(&self) -> String {
        let tool_use = self.tool_use.iter().map(|_| TOOL_USE);
        let names: Vec<_> =
            tool_use.chain(self.others.iter().map(String::as_str)).map(|name| format!("`{name}`")).collect();
        names.join(", ")
    }
}

impl From<ChatTemplate> for ChatTemplates {
    fn from(template: ChatTemplate) -> Self {
        Self { default: Some(template), tool_use: None, others: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn rendered(templates: &ChatTemplates, tools: Value) -> Result<String, String> {
        let chat =
            Chat { messages: vec![json!({"role": "user", "content": "hi"})], tools, ..Chat::default() };
        templates.render_chat(&chat).map_err(|error| error.failure().message)
    }

    fn templates(default: Option<&str>, named: &[(&'static str, &'static str)]) -> Option<ChatTemplates> {
        ChatTemplates::new(default, named.iter().copied(), &SpecialTokens::new())
    }

    #[test]
    fn a_conversation_with_tools_has_its_own_template() {
        let both = templates(Some("plain"), &[("rag", "documents"), ("tool_use", "with tools")]).unwrap();
        for (tools, text) in
            [(Value::Null, "plain"), (json!([]), "with tools"), (json!([{"name": "f"}]), "with tools")]
        {
            assert_eq!(rendered(&both, tools).unwrap(), text);
        }
        let one = templates(Some("{{ tools is none }}"), &[("rag", "documents")]).unwrap();
        assert_eq!(rendered(&one, json!([])).unwrap(), "False");
        assert!(both.contain("tools") && !both.contain("documents"));
    }

    #[test]
    fn without_a_default_template_only_what_the_others_are_for_has_one() {
        let named = templates(None, &[("rag", "documents"), ("tool_use", "with tools")]).unwrap();
        assert_eq!(rendered(&named, json!([])).unwrap(), "with tools");
        let refused = rendered(&named, Value::Null).unwrap_err();
        assert!(refused.contains("only `tool_use`, `rag`"), "{refused}");
        assert!(templates(None, &[("rag", "documents")]).is_some());
        assert!(templates(None, &[]).is_none());
    }

    #[test]
    fn every_template_that_does_not_compile_is_a_problem() {
        let broken = templates(Some("{% if %}"), &[("tool_use", "{{ x"), ("rag", "{{ x")]).unwrap();
        assert_eq!(broken.problems().count(), 2);
    }
}
