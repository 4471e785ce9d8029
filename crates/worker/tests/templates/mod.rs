//! Public chat templates, rendered here, by Jinja2 as transformers sets it up, and by transformers itself.
//! `reference/templates.py` has made the texts, `reference/record_templates.py` the digests of what transformers gives; one
//! test is to say which templates differ and where.

use std::{collections::BTreeMap, fs, iter::repeat, path::PathBuf, sync::Arc};

use protocol::message::{ChatMessage, ToolCall};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use worker::prepare::template::{Chat, ChatTemplate, Clock, SpecialTokens};

/// What `templates.py` has written.
#[derive(Deserialize)]
struct Reference {
    /// The time that its clock shows.
    now: String,
    cases: Vec<Case>,
    /// Small templates, all with `variables`.
    snippets: Vec<Snippet>,
    variables: Map<String, Value>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    /// Of a template that is not Jinja.
    error: Option<String>,
    renderings: Vec<Rendering>,
}

/// What a template gives for one conversation.
#[derive(Deserialize)]
struct Rendering {
    conversation: String,
    messages: Vec<Value>,
    variables: Map<String, Value>,
    /// Absent if it refuses the conversation or fails on it.
    text: Option<String>,
}

#[derive(Deserialize)]
struct Snippet {
    source: String,
    text: Option<String>,
}

/// What `record_templates.py` has written: digests in the order of the conversations, and of the snippets.
#[derive(Deserialize)]
struct Recorded {
    templates: BTreeMap<String, String>,
    snippets: String,
}

impl Rendering {
    fn render(&self, source: &str, clock: &Clock) -> Result<String, String> {
        let mut more = self.variables.clone();
        let mut take = |name: &str| more.shift_remove(name).unwrap_or_default();
        let names = ["bos_token", "eos_token", "unk_token", "pad_token"];
        let special_tokens: SpecialTokens = names
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), take(name).as_str()?.to_owned())))
            .collect();
        let chat = Chat {
            messages: self.messages.clone(),
            tools: take("tools"),
            documents: take("documents"),
            add_generation_prompt: take("add_generation_prompt").as_bool().unwrap(),
            more,
        };
        render(&ChatTemplate::with_clock(source, special_tokens, Arc::clone(clock)), &chat)
    }
}

fn render(template: &ChatTemplate, chat: &Chat) -> Result<String, String> {
    template.render_chat(chat).map_err(|error| error.failure().message)
}

/// What is wrong with a result, if anything. An error's words are not compared: Python's name Python's types.
fn difference(found: &Result<String, String>, expected: Option<&str>, recorded: &str) -> Option<String> {
    match (found, expected) {
        (Ok(found), Some(expected)) if found == expected => {}
        (Err(_), None) => {}
        (Ok(found), Some(expected)) => {
            let same = found.chars().zip(expected.chars()).take_while(|(a, b)| a == b).count();
            let part = |text: &str| text.chars().skip(same.saturating_sub(20)).take(60).collect::<String>();
            return Some(format!("found {:?}, expected {:?}", part(found), part(expected)));
        }
        (Ok(_), None) => return Some("rendered, but Jinja2 fails".into()),
        (Err(error), Some(_)) => return Some(error.clone()),
    }
    let digest = found.as_ref().map_or("-".to_owned(), |text| digest(text));
    (recorded != "?" && recorded != digest)
        .then(|| "as with Jinja2, but transformers gives something else".into())
}

fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

fn folder() -> PathBuf {
    PathBuf::from(std::env::var_os("KR_TEST_TEMPLATES").expect(
        "KR_TEST_TEMPLATES names no folder with reference renderings: run `cargo xtask test`, which makes it and sets it",
    ))
}

/// What clients send back of an answer, as OpenAI's own template writes it.
#[test]
fn gpt_oss_is_given_calls_results_and_reasoning() {
    let source = fs::read_to_string(folder().join("templates/llama.cpp/openai-gpt-oss-120b.jinja")).unwrap();
    assert_eq!(chat::Format::of_template(&source).name, "harmony");
    let call = ToolCall { id: "c".into(), name: "weather".into(), arguments: "{\"city\":\"Oslo\"}".into() };
    let called = ChatMessage {
        reasoning: Some("I ask.".into()),
        tool_calls: vec![call],
        ..ChatMessage::new("assistant", "")
    };
    let result = ChatMessage { tool_call_id: Some("c".into()), ..ChatMessage::new("tool", "cold") };
    let messages = [ChatMessage::new("user", "Hi"), called, result];
    let tools = json!([{"type": "function", "function": {"name": "weather", "description": "Tells."}}]);
    let template = ChatTemplate::new(&source, SpecialTokens::new());
    let text = render(&template, &Chat::of(&messages).with_tools(tools)).unwrap();
    assert!(text.contains("# Tools") && text.contains("// Tells.\ntype weather = () => any;"), "{text}");
    let conversation = "<|start|>user<|message|>Hi<|end|>\
                        <|start|>assistant<|channel|>analysis<|message|>I ask.<|end|>\
                        <|start|>assistant to=functions.weather<|channel|>commentary json<|message|>{\"city\": \"Oslo\"}<|call|>\
                        <|start|>functions.weather to=assistant<|channel|>commentary<|message|>\"cold\"<|end|>\
                        <|start|>assistant";
    assert!(text.ends_with(conversation), "{text}");
}

#[test]
fn templates_give_what_transformers_gives() {
    let folder = folder();
    let reference = fs::read(folder.join("cases.json")).unwrap();
    let reference: Reference = serde_json::from_slice(&reference).unwrap();
    let recorded: Recorded = serde_json::from_str(include_str!("../reference/templates.json")).unwrap();
    let now = reference.now.parse().unwrap();
    let clock: Clock = Arc::new(move || now);
    let mut differences = Vec::new();

    let (mut alike, mut renderings) = (0, 0);
    for case in &reference.cases {
        let source = fs::read_to_string(folder.join("templates").join(&case.template)).unwrap();
        assert!(case.error.is_none(), "{}: {:?}", case.template, case.error);
        let digests = recorded.templates.get(&case.template);
        let digests: Vec<&str> = digests.map(|it| it.split(' ').collect()).unwrap_or_default();
        assert!(digests.is_empty() || digests.len() == case.renderings.len(), "{}", case.template);
        let before = differences.len();
        for (rendering, recorded) in case.renderings.iter().zip(digests.into_iter().chain(repeat("?"))) {
            let found = rendering.render(&source, &clock);
            let difference = difference(&found, rendering.text.as_deref(), recorded);
            differences
                .extend(difference.map(|it| format!("{}, {}: {it}", case.template, rendering.conversation)));
        }
        renderings += case.renderings.len();
        alike += usize::from(differences.len() == before);
    }
    let digests: Vec<&str> = recorded.snippets.split(' ').collect();
    assert_eq!(digests.len(), reference.snippets.len());
    for (snippet, recorded) in reference.snippets.iter().zip(digests) {
        let chat = Chat { more: reference.variables.clone(), ..Chat::default() };
        let template = ChatTemplate::with_clock(&snippet.source, SpecialTokens::new(), Arc::clone(&clock));
        let difference = difference(&render(&template, &chat), snippet.text.as_deref(), recorded);
        differences.extend(difference.map(|it| format!("{:?}: {it}", snippet.source)));
    }

    let (templates, snippets) = (reference.cases.len(), reference.snippets.len());
    eprintln!(
        "{alike} of {templates} templates are alike in all of {renderings} renderings; {snippets} snippets"
    );
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    let compared = reference.cases.iter().filter(|case| recorded.templates.contains_key(&case.template));
    assert_eq!(
        compared.count(),
        recorded.templates.len(),
        "templates that transformers has rendered are missing"
    );
}
