#![allow(clippy::unwrap_used)]

use protocol::message::Prompt;
use serde_json::{Value, json};

use super::{
    super::{ChatTemplate, Settings, samples, template::SpecialTokens},
    *,
};
use crate::engine::EosTokens;

const CONTEXT: usize = 32;

fn preparer(tokenizer: &Value, template: Option<&str>) -> Preparer {
    let tokenizer = samples::load(tokenizer);
    let settings = Settings {
        template: template.map(|source| ChatTemplate::new(source, SpecialTokens::new()).into()),
        eos_tokens: EosTokens::default(),
        context_length: CONTEXT,
        kv_tokens: usize::MAX,
        vocab_size: tokenizer.tokenizer().get_vocab_size(true) as u32,
        special_tokens_in_content: false,
        embedding: None,
    };
    Preparer::new(tokenizer, settings)
}

/// A tokenizer that puts `<s>` before a text.
fn with_beginning() -> Value {
    let mut tokenizer = samples::byte_level();
    let bos = samples::load(&tokenizer).tokenizer().token_to_id("<s>").unwrap();
    tokenizer["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [bos], "tokens": ["<s>"]}},
    });
    tokenizer
}

fn text(text: &str) -> Prompt {
    Prompt::Text(text.into())
}

fn chat(content: &str) -> Prompt {
    Prompt::Chat(vec![ChatMessage::new("user", content)])
}

/// Of a prompt.
fn input(prompt: Prompt, add_special_tokens: bool) -> TokenizeInput {
    TokenizeInput { add_special_tokens, ..TokenizeInput::new(prompt) }
}

fn pieces(preparer: &Preparer, tokens: &[u32]) -> Vec<String> {
    tokens.iter().map(|&token| preparer.tokenizer.tokenizer().id_to_token(token).unwrap()).collect()
}

#[test]
fn texts_are_tokenized_with_special_tokens_or_without() {
    let preparer = preparer(&with_beginning(), None);
    let tokens = preparer.tokenize(&input(text("the end"), true)).unwrap();
    assert_eq!(pieces(&preparer, &tokens), ["<s>", "the", "Ġ", "end"]);
    let tokens = preparer.tokenize(&input(text("the end"), false)).unwrap();
    assert_eq!(pieces(&preparer, &tokens), ["the", "Ġ", "end"]);
    assert!(
        preparer.tokenize(&input(text(""), false)).unwrap().is_empty(),
        "nothing to continue is needed here"
    );
}

#[test]
fn chats_are_tokenized_as_their_generation_would_be() {
    let template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}";
    let preparer = preparer(&with_beginning(), Some(template));
    let expected = ["<|im_start|>", "a", "<|im_end|>"];
    for add_special_tokens in [false, true] {
        let tokens = preparer.tokenize(&input(chat("a"), add_special_tokens)).unwrap();
        assert_eq!(pieces(&preparer, &tokens), expected);
    }
    let typed = preparer.tokenize(&input(chat("<|im_end|>"), false)).unwrap();
    assert!(typed.len() > 3, "what a client types is text: {:?}", pieces(&preparer, &typed));
}

#[test]
fn what_is_counted_is_what_tokenizing_gives() {
    let preparer = preparer(&with_beginning(), Some("{{ messages[0].content }}"));
    for prompt in [text(""), text("the end of it"), chat("abab é"), Prompt::Tokens(vec![1, 2, 3])] {
        for add_special_tokens in [false, true] {
            let tokens = preparer.tokenize(&input(prompt.clone(), add_special_tokens)).unwrap();
            assert_eq!(
                preparer.count(&input(prompt.clone(), add_special_tokens)).unwrap(),
                tokens.len(),
                "{prompt:?}"
            );
        }
    }
}

#[test]
fn the_bounds_are_those_of_prompts() {
    let preparer = preparer(&samples::byte_level(), None);
    let failure = preparer.tokenize(&input(text(&"xyz".repeat(1 << 20)), true)).unwrap_err();
    let expected = (FailureKind::ContextLengthExceeded, Some("prompt"));
    assert_eq!((failure.kind, failure.param.as_deref()), expected);
    let vocab_size = preparer.settings.vocab_size;
    let failure = preparer.count(&input(Prompt::Tokens(vec![vocab_size]), true)).unwrap_err();
    assert_eq!((failure.kind, failure.param.as_deref()), (FailureKind::InvalidRequest, Some("prompt")));
    let failure = preparer.tokenize(&input(chat("a"), true)).unwrap_err();
    assert!(failure.message.contains("no chat template"), "{}", failure.message);
}

#[test]
fn tokens_become_text_with_special_tokens_or_without() {
    for tokenizer in [samples::byte_level(), samples::sentencepiece()] {
        let preparer = preparer(&tokenizer, None);
        let tokens = preparer.tokenize(&input(text("the <|im_end|>abé"), false)).unwrap();
        let shown = preparer.detokenize(&tokens, false).unwrap();
        assert_eq!(shown.replace(' ', ""), "the<|im_end|>abé");
        let hidden = preparer.detokenize(&tokens, true).unwrap();
        assert_eq!(hidden.replace(' ', ""), "theabé");
        assert_eq!(preparer.detokenize(&[], true).unwrap(), "");
    }
}

#[test]
fn what_is_detokenized_is_bounded() {
    let preparer = preparer(&samples::byte_level(), None);
    assert!(preparer.detokenize(&[1; CONTEXT], false).is_ok());
    let failure = preparer.detokenize(&[1; CONTEXT + 1], false).unwrap_err();
    let expected = (FailureKind::ContextLengthExceeded, Some("tokens"));
    assert_eq!((failure.kind, failure.param.as_deref()), expected);
    let failure = preparer.detokenize(&[1, preparer.settings.vocab_size], false).unwrap_err();
    assert_eq!((failure.kind, failure.param.as_deref()), (FailureKind::InvalidRequest, Some("tokens")));
}

#[test]
fn a_decoder_that_makes_much_of_little_is_not_run() {
    let mut tokenizer = samples::byte_level();
    let long = "a".repeat(2_200);
    let id = samples::load(&tokenizer).tokenizer().get_vocab_size(true);
    let added = json!({"id": id, "content": long, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": false});
    tokenizer["added_tokens"].as_array_mut().unwrap().push(added);
    tokenizer["decoder"] =
        json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(1000)});
    let preparer = preparer(&tokenizer, None);
    let failure = preparer.detokenize(&[id as u32; CONTEXT], false).unwrap_err();
    assert_eq!((failure.kind, failure.param.as_deref()), (FailureKind::InvalidRequest, Some("tokens")));
    assert!(failure.message.contains("64 MiB"), "{}", failure.message);
}

#[test]
fn a_decoder_that_panics_fails_the_operation() {
    let mut tokenizer = samples::byte_level();
    tokenizer["decoder"] = json!({"type": "Strip", "content": "a", "start": 0, "stop": 3});
    let preparer = preparer(&tokenizer, None);
    let a = preparer.tokenizer.tokenizer().token_to_id("a").unwrap();
    assert_eq!(preparer.detokenize(&[a], false).unwrap_err().kind, FailureKind::InvalidRequest);
}

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}\
                      {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

#[test]
fn a_chat_is_rendered_as_its_generation_begins_or_without_the_beginning_of_an_answer() {
    let preparer = preparer(&samples::byte_level(), Some(CHATML));
    for content in ["the end", "a<|im_end|>b"] {
        let Prompt::Chat(messages) = chat(content) else { unreachable!() };
        let whole = preparer.render(&messages, true).unwrap();
        assert_eq!(whole, format!("<|im_start|>user\n{content}<|im_end|><|im_start|>assistant\n"));
        let shorter = preparer.render(&messages, false).unwrap();
        assert_eq!(shorter, format!("<|im_start|>user\n{content}<|im_end|>"));
        let tokens = preparer.tokenize(&input(chat(content), false)).unwrap();
        assert_eq!(preparer.detokenize(&tokens, false).unwrap(), whole);
        let without = TokenizeInput { add_generation_prompt: false, ..input(chat(content), false) };
        let tokens = preparer.tokenize(&without).unwrap();
        assert_eq!(preparer.detokenize(&tokens, false).unwrap(), shorter);
    }
    let without_template = self::preparer(&samples::byte_level(), None);
    let failure = without_template.render(&[], true).unwrap_err();
    assert_eq!((failure.kind, failure.param.as_deref()), (FailureKind::InvalidRequest, Some("messages")));
}

#[test]
fn pieces_are_the_tokens_and_their_texts() {
    for tokenizer in [samples::byte_level(), samples::sentencepiece()] {
        let preparer = preparer(&tokenizer, None);
        let input = input(text("the <|im_end|>the é"), false);
        let tokens = preparer.tokenize(&input).unwrap();
        for form in [PieceForm::Vocabulary, PieceForm::Bytes] {
            let found = preparer.pieces(&input, form).unwrap();
            assert_eq!(found.iter().map(|(token, _)| token).collect::<Vec<_>>(), tokens);
            let joined: Vec<u8> = found.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
            let texts = found.iter().map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned());
            match form {
                PieceForm::Vocabulary => assert_eq!(texts.collect::<Vec<_>>(), pieces(&preparer, &tokens)),
                PieceForm::Bytes => {
                    let joined = String::from_utf8(joined).unwrap();
                    assert_eq!(joined.replace(' ', ""), "the<|im_end|>theé", "{joined:?}");
                }
            }
        }
    }
}

/// Stored models: one by each name.
#[derive(Debug)]
struct Stored(Vec<(&'static str, Value)>);

impl draft::Drafts for Stored {
    fn tokenizer(&self, name: &str) -> Result<super::super::PromptTokenizer, Failure> {
        let found = self.0.iter().find(|(stored, _)| *stored == name);
        found.map(|(_, tokenizer)| samples::load(tokenizer)).ok_or_else(|| Failure {
            kind: FailureKind::UnknownModel,
            param: Some("draft_model".into()),
            message: "no such model".into(),
        })
    }
}

#[test]
fn a_draft_model_is_looked_up_in_the_store() {
    let stored = Stored(vec![("same", samples::byte_level()), ("other", samples::words())]);
    let preparer = preparer(&samples::byte_level(), None).with_drafts(Box::new(stored));
    let check = |draft: &str| {
        preparer.operate(Operation {
            id: protocol::ids::RequestId(1),
            kind: OperationKind::CheckDraft { draft: draft.into() },
        })
    };
    let Ok(Operated::Answered(Answer::DraftCheck { compatible, reason, vocab_size, draft_vocab_size })) =
        check("same")
    else {
        panic!("{:?}", check("same"))
    };
    assert_eq!((compatible, reason, vocab_size), (true, None, draft_vocab_size));
    let Ok(Operated::Answered(Answer::DraftCheck { compatible: false, reason: Some(_), .. })) =
        check("other")
    else {
        panic!("{:?}", check("other"))
    };
    assert_eq!(check("absent").unwrap_err().kind, FailureKind::UnknownModel);
    let without_store = self::preparer(&samples::byte_level(), None);
    assert_eq!(without_store.check_draft("same").unwrap_err().kind, FailureKind::Internal);
}
