#![allow(clippy::unwrap_used)]

use protocol::{
    ids::RequestId,
    message::{ChatMessage, Failure, FailureKind, Generate, Prompt, Sampling},
};
use serde_json::{Value, json};

use std::sync::Arc;

use super::{preparer::param, *};
use crate::{engine::EosTokens, requests::RequestHandle};

mod tools;

const CHATML: &str = "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
                      {% endfor %}<|im_start|>assistant\n";

const CONTEXT: usize = 256;

fn preparer(tokenizer: &Value) -> Preparer {
    preparer_with(tokenizer, |_| {})
}

/// A model with a row for every token of the sample.
fn preparer_with(tokenizer: &Value, change: impl FnOnce(&mut Settings)) -> Preparer {
    let tokenizer = samples::load(tokenizer);
    let vocab_size = tokenizer.tokenizer().get_vocab_size(true) as u32;
    let special =
        [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(name, text)| (name.into(), text.into()));
    let template = ChatTemplate::new(CHATML, special.into());
    let mut settings = Settings {
        template: Some(template.into()),
        eos_tokens: EosTokens::new(vec![3, 1, 3]),
        context_length: CONTEXT,
        kv_tokens: usize::MAX,
        vocab_size,
        special_tokens_in_content: false,
        embedding: None,
    };
    change(&mut settings);
    Preparer::new(tokenizer, settings)
}

fn text(text: &str) -> Prompt {
    Prompt::Text(text.into())
}

fn chat(content: &str) -> Prompt {
    Prompt::Chat(vec![ChatMessage::new("user", content)])
}

fn generate(prompt: Prompt) -> Generate {
    Generate { max_tokens: Some(1), ..Generate::new(RequestId(1), prompt, 1) }
}

fn prepare(preparer: &Preparer, prompt: Prompt) -> Result<Vec<u32>, Failure> {
    let generate = generate(prompt);
    let sequence = preparer.prepare(generate, Arc::new(RequestHandle::new(1)))?;
    assert!([1, 3].into_iter().all(|token| sequence.eos_tokens.contains(token)));
    Ok(sequence.tokens)
}

fn count(tokens: &[u32], preparer: &Preparer, text: &str) -> usize {
    let id = preparer.tokenizer.tokenizer().token_to_id(text).unwrap();
    tokens.iter().filter(|&&token| token == id).count()
}

#[test]
fn what_training_left_in_the_tokenizer_changes_no_prompt() {
    let expected = prepare(&preparer(&samples::byte_level()), text(&"x".repeat(100))).unwrap();
    let changes = [
        (
            "truncation",
            json!({"direction": "Right", "max_length": 32, "strategy": "LongestFirst", "stride": 0}),
        ),
        (
            "padding",
            json!({"strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                "pad_type_id": 0, "pad_token": "!"}),
        ),
    ];
    for (field, value) in changes {
        let mut tokenizer = samples::byte_level();
        tokenizer[field] = value;
        assert_eq!(prepare(&preparer(&tokenizer), text(&"x".repeat(100))).unwrap(), expected, "{field}");
    }
    let mut tokenizer = samples::byte_level();
    tokenizer["model"]["dropout"] = 0.9.into();
    let (random, plain) = (preparer(&tokenizer), preparer(&samples::byte_level()));
    let words = "the end of the ababab";
    assert_eq!(prepare(&random, text(words)).unwrap(), prepare(&plain, text(words)).unwrap());
}

#[test]
fn the_tokenizer_adds_its_tokens_to_texts_and_the_template_to_chats() {
    let mut tokenizer = samples::byte_level();
    let bos = samples::load(&tokenizer).tokenizer().token_to_id("<s>").unwrap();
    tokenizer["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [bos], "tokens": ["<s>"]}},
    });
    let preparer = preparer(&tokenizer);
    for prompt in [text("a"), chat("a"), chat("<|im_end|>")] {
        let tokens = prepare(&preparer, prompt).unwrap();
        assert_eq!((tokens[0], count(&tokens, &preparer, "<s>")), (bos, 1), "{tokens:?}");
    }
}

#[test]
fn an_output_ends_at_its_own_limit_or_with_the_context() {
    let preparer = preparer(&samples::byte_level());
    let max_len = |max_tokens| {
        let generate = Generate { max_tokens, ..generate(Prompt::Tokens(vec![5; 10])) };
        let sequence = preparer.prepare(generate, Arc::new(RequestHandle::new(1))).unwrap();
        assert_eq!((sequence.prompt_len, sequence.tokens.len(), sequence.ended), (10, 10, None));
        sequence.max_len
    };
    assert_eq!(max_len(Some(7)), 17);
    assert_eq!(max_len(Some(u32::MAX)), CONTEXT);
    assert_eq!(max_len(None), CONTEXT);
}

#[test]
fn what_there_is_no_memory_for_is_refused_at_once() {
    let preparer = preparer_with(&samples::byte_level(), |settings| settings.kv_tokens = 100);
    let prepare = |tokens, max_tokens| {
        let generate = Generate { max_tokens, ..generate(Prompt::Tokens(vec![5; tokens])) };
        preparer.prepare(generate, Arc::new(RequestHandle::new(1))).map(|sequence| sequence.max_len)
    };
    assert_eq!((prepare(10, Some(90)).unwrap(), prepare(10, None).unwrap()), (100, 100));
    let refused = |tokens, max_tokens| {
        let failure = prepare(tokens, max_tokens).unwrap_err();
        assert_eq!(failure.kind, FailureKind::ContextLengthExceeded);
        (failure.param.unwrap(), failure.message)
    };
    let (param, message) = refused(10, Some(91));
    let expected = "The prompt has 10 tokens and the answer may have 91, and this server has memory for the keys and values \
                    of 100. Ask for less, or have `worker.kv_max_bytes` or `memory.max_bytes` raised.";
    assert_eq!((&*param, &*message), ("max_tokens", expected));
    let (param, message) = refused(100, None);
    assert!(
        param == "prompt" && message.starts_with("The prompt has 100 tokens, and this server"),
        "{message}"
    );
    assert!(refused(CONTEXT, None).1.contains("maximum context length is 256"), "whatever the memory");
}

#[test]
fn tokens_that_end_an_output_can_be_ignored() {
    let preparer = preparer(&samples::byte_level());
    let generate = Generate { ignore_eos: true, ..generate(text("a")) };
    let sequence = preparer.prepare(generate, Arc::new(RequestHandle::new(1))).unwrap();
    assert!(![1, 3].into_iter().any(|token| sequence.eos_tokens.contains(token)));
}

#[test]
fn what_can_not_be_served_names_its_field() {
    let preparer = preparer_with(&samples::byte_level(), |settings| settings.template = None);
    let vocab_size = samples::load(&samples::byte_level()).tokenizer().get_vocab_size(true) as u32;
    let sampling = Sampling { logit_bias: vec![(1, 1.0), (vocab_size, 1.0)], ..Sampling::default() };
    for (generate, param) in [
        (generate(text("")), "prompt"),
        (generate(Prompt::Tokens(Vec::new())), "prompt"),
        (generate(chat("a")), "messages"),
        (Generate { sampling, ..generate(text("a")) }, "logit_bias"),
        (Generate { stop_tokens: vec![1, vocab_size], ..generate(text("a")) }, "stop_token_ids"),
    ] {
        let failure = preparer.prepare(generate, Arc::new(RequestHandle::new(1))).err().unwrap();
        assert_eq!((failure.kind, failure.param.as_deref()), (FailureKind::InvalidRequest, Some(param)));
    }
}

#[test]
fn a_token_without_a_row_fails_its_request() {
    let mut tokenizer = samples::byte_level();
    let rows = samples::load(&tokenizer).tokenizer().get_vocab_size(true) as u32;
    let pad = json!({"id": rows, "content": "[PAD]", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    tokenizer["added_tokens"].as_array_mut().unwrap().push(pad);
    let preparer = preparer_with(&tokenizer, |settings| settings.vocab_size = rows);
    let cases = [
        (text("a [PAD] b"), "prompt"),
        (chat("a [PAD] b"), "messages"),
        (Prompt::Tokens(vec![1, rows]), "prompt"),
    ];
    for (prompt, param) in cases {
        let given = matches!(prompt, Prompt::Tokens(_));
        let failure = prepare(&preparer, prompt).unwrap_err();
        assert_eq!((failure.kind, failure.param.as_deref()), (FailureKind::InvalidRequest, Some(param)));
        assert!(failure.message.contains(&format!("token {rows}")), "{}", failure.message);
        assert!(given || failure.message.contains("[PAD]"), "{}", failure.message);
    }
    assert!(prepare(&preparer, text("hello")).is_ok());
    assert!(prepare(&preparer, Prompt::Tokens(vec![rows - 1])).is_ok());
}

#[test]
fn a_prompt_fits_if_one_token_can_follow() {
    let preparer = preparer(&samples::byte_level());
    assert_eq!(prepare(&preparer, text(&"x".repeat(CONTEXT - 1))).unwrap().len(), CONTEXT - 1);
    // "abab" is one token, and so are eight spaces.
    assert_eq!(prepare(&preparer, text(&"abab".repeat(CONTEXT - 1))).unwrap().len(), CONTEXT - 1);
    let long = [
        text(&"x".repeat(CONTEXT)),
        text(&"abab".repeat(CONTEXT)),
        text(&"a ".repeat(1 << 20)),
        chat(&"a ".repeat(1 << 20)),
        chat(&("<s>".to_owned() + &"a ".repeat(1 << 20))),
        Prompt::Tokens(vec![1; CONTEXT]),
    ];
    for prompt in long {
        let param = param(&prompt);
        let failure = prepare(&preparer, prompt).unwrap_err();
        assert_eq!(
            (failure.kind, failure.param.as_deref()),
            (FailureKind::ContextLengthExceeded, Some(param))
        );
        assert!(failure.message.contains("maximum context length is 256 tokens"), "{}", failure.message);
    }
}

#[test]
fn typed_control_tokens_are_text_unless_the_operator_wants_them() {
    let typed = "blue<|im_end|>";
    let safe = preparer(&samples::byte_level());
    let tokens = prepare(&safe, chat(typed)).unwrap();
    assert_eq!(count(&tokens, &safe, "<|im_end|>"), 1);
    // Prompts that are not chats have no template that would write them.
    let tokens = prepare(&safe, text(typed)).unwrap();
    assert_eq!(count(&tokens, &safe, "<|im_end|>"), 1);

    let open = preparer_with(&samples::byte_level(), |settings| settings.special_tokens_in_content = true);
    let tokens = prepare(&open, chat(typed)).unwrap();
    assert_eq!(count(&tokens, &open, "<|im_end|>"), 2);
}

#[test]
fn a_tokenizer_that_blows_texts_up_is_not_loaded() {
    let step = json!({"type": "Replace", "pattern": {"String": "x"}, "content": "x".repeat(16)});
    let steps = |count: usize| vec![step.clone(); count];
    let load = |field: &str, value: Value| {
        let mut tokenizer = samples::byte_level();
        tokenizer[field] = value;
        PromptTokenizer::from_bytes(tokenizer.to_string().as_bytes()).map(drop)
    };
    let normalizers = |count| json!({"type": "Sequence", "normalizers": steps(count)});
    let error = load("normalizer", normalizers(8)).unwrap_err();
    assert!(
        matches!(error, TokenizerError::Growth { stage: "normalizer", factor: 0x1_0000_0000 }),
        "{error}"
    );
    let error = load("decoder", json!({"type": "Sequence", "decoders": steps(8)})).unwrap_err();
    assert!(matches!(error, TokenizerError::Growth { stage: "decoder", .. }), "{error}");
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let error =
        load("pre_tokenizer", json!({"type": "Sequence", "pretokenizers": vec![bytes; 30]})).unwrap_err();
    assert!(matches!(error, TokenizerError::Growth { stage: "pre_tokenizer", .. }), "{error}");
    let error =
        load("normalizer", json!({"type": "Sequence", "normalizers": vec![json!({"type": "NFC"}); 65]}));
    assert!(error.is_err());
    load("normalizer", normalizers(2)).unwrap();
    assert!(matches!(load("normalizer", json!({"type": "Odd"})), Err(TokenizerError::Unreadable(_))));
}

#[test]
fn what_a_normalizer_makes_of_a_prompt_is_bounded() {
    let mut tokenizer = samples::byte_level();
    tokenizer["normalizer"] =
        json!({"type": "Replace", "pattern": {"String": "xx"}, "content": "x".repeat(2048)});
    let preparer = preparer(&tokenizer);
    let failure = prepare(&preparer, text(&"x".repeat(200_000))).unwrap_err();
    assert_eq!(failure.kind, FailureKind::ContextLengthExceeded);
    assert!(failure.message.contains("the model's normalizer makes more than 64 MiB"), "{}", failure.message);
    // The same length of other text stays what it is.
    assert!(prepare(&preparer, text("yy")).is_ok());
    let failure = prepare(&preparer, text(&"y".repeat(200_000))).unwrap_err();
    assert!(failure.message.contains("and the prompt has"), "{}", failure.message);
}

#[test]
fn what_the_tokenizer_has_no_token_for_is_the_requests_fault() {
    let mut tokenizer = samples::words();
    tokenizer["model"]["unk_token"] = "absent".into();
    let failure = prepare(&preparer(&tokenizer), text("strange")).unwrap_err();
    assert_eq!((failure.kind, failure.param.as_deref()), (FailureKind::InvalidRequest, Some("prompt")));
}
