//! Outputs of a model that writes in channels: what its client is told apart, also where another worker goes on.

use std::sync::LazyLock;

use protocol::message::{
    ChatMessage, Constraint, ConstraintKind, Delta, FinishReason, Generate, OutputPart, Prompt, TokenizeInput,
};

use super::*;
use crate::prepare::{ChatTemplate, Preparer, Settings, samples};

const TEMPLATE: &str = "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}\
                        {% if tools %}{{ tools | tojson }}{% endif %}<|start|>assistant\
                        {#- an answer: <|channel|>final<|message|> #}";

/// Reasoning with a character of several tokens, an answer before a call, and a call.
const OUTPUT: &str = "<|channel|>analysis<|message|>Is it the é?<|end|><|start|>assistant<|channel|>commentary<|message|>\
                      I ask the end.<|end|><|start|>assistant<|channel|>commentary to=functions.weather \
                      <|constrain|>json<|message|>{\"city\": \"the end\"}<|call|>";

const REASONING: &str = "Is it the é?";
const ANSWER: &str = "I ask the end.";
const ARGUMENTS: &str = "{\"city\": \"the end\"}";

static PREPARER: LazyLock<Preparer> = LazyLock::new(|| {
    let tokenizer = samples::load(&samples::harmony());
    let ends = ["<|call|>", "<|return|>"].map(|text| tokenizer.tokenizer().token_to_id(text).unwrap());
    let vocab_size = tokenizer.tokenizer().get_vocab_size(true) as u32;
    let settings = Settings {
        template: Some(ChatTemplate::new(TEMPLATE, Default::default()).into()),
        eos_tokens: EosTokens::new(ends.to_vec()),
        context_length: 3000,
        kv_tokens: usize::MAX,
        vocab_size,
        special_tokens_in_content: false,
        embedding: None,
    };
    Preparer::new(tokenizer, settings)
});

fn input(prompt: Prompt) -> TokenizeInput {
    TokenizeInput { add_special_tokens: false, ..TokenizeInput::new(prompt) }
}

/// The special tokens of the format are the last ones.
fn vocab() -> u32 {
    tokens("<|return|>")[0] + 1
}

fn tokens(text: &str) -> Vec<u32> {
    PREPARER.tokenize(&input(Prompt::Text(text.into()))).unwrap()
}

fn chat() -> Prompt {
    Prompt::Chat(vec![ChatMessage::new("user", "the")])
}

fn ask(prompt: Prompt) -> Generate {
    let logprobs = Sampling { logprobs: Some(0), ..Sampling::default() };
    Generate { sampling: logprobs, max_tokens: Some(1000), ..Generate::new(RequestId(1), prompt, 100_000) }
}

/// A stream of `model`: what its client is told, in order, and all that it was sent.
fn run(model: FakeModel, ask: Generate) -> (Vec<OutputPart>, Stream) {
    let mut world = World::with_limits(model, Limits { kv_tokens: 9000, ..super::LIMITS });
    let request = world.requests.begin(ask.id, ask.credit).unwrap();
    let sequence = PREPARER.prepare(ask, request).unwrap();
    world.messages.send(EngineMessage::Sequence(Box::new(sequence))).unwrap();
    assert_eq!(world.settle(), Turn::Idle);
    let mut told = Vec::new();
    for event in world.reports.events() {
        if let StreamEventKind::Delta(Delta { text, parts, .. }) = event.kind {
            told.push(OutputPart::Text(text.into()));
            told.extend(parts);
        }
    }
    (joined(told), world.stream(1))
}

/// A model that says `output` behind the prompt of `ask`.
fn saying(output: &str, prompt: &Prompt) -> FakeModel {
    let begin = PREPARER.tokenize(&input(prompt.clone())).unwrap().len();
    let output = tokens(output);
    let vocab = vocab();
    FakeModel::next(vocab, move |tokens| output.get(tokens.len() - begin).copied().unwrap_or(0))
}

/// Parts that belong together as one.
fn joined(parts: Vec<OutputPart>) -> Vec<OutputPart> {
    let mut joined: Vec<OutputPart> = Vec::new();
    for part in parts.into_iter().filter(|part| part.bytes() > 0) {
        match (joined.last_mut(), part) {
            (Some(OutputPart::Text(text)), OutputPart::Text(more))
            | (Some(OutputPart::Reasoning(text)), OutputPart::Reasoning(more))
            | (
                Some(OutputPart::CallArguments { json: text, .. }),
                OutputPart::CallArguments { json: more, .. },
            ) => text.push_str(&more),
            (_, part) => joined.push(part),
        }
    }
    joined
}

fn expected() -> Vec<OutputPart> {
    vec![
        OutputPart::Reasoning(REASONING.into()),
        OutputPart::Text(ANSWER.into()),
        OutputPart::CallStart { index: 0, name: "weather".into() },
        OutputPart::CallArguments { index: 0, json: ARGUMENTS.into() },
    ]
}

#[test]
fn a_chat_is_taken_apart_and_a_text_is_not() {
    let (told, stream) = run(saying(OUTPUT, &chat()), ask(chat()));
    assert_eq!(told, expected());
    assert_eq!(stream.reason(), Some(FinishReason::Stop));
    assert_eq!(stream.tokens, tokens(OUTPUT));
    // Of the answer's tokens it is told how likely they were.
    let likely: Vec<u32> = stream.logprobs.iter().map(|it| it.chosen.token).collect();
    assert_eq!(likely, tokens(ANSWER));

    let text = Prompt::Text("the".into());
    let (told, stream) = run(saying(OUTPUT, &text), ask(text));
    assert_eq!(stream.logprobs.len(), stream.tokens.len());
    let plain = "analysisIs it the é?assistantcommentaryI ask the end.assistantcommentary to=functions.weather \
                 json{\"city\": \"the end\"}";
    assert_eq!(told, [OutputPart::Text(plain.into())]);
}

/// Wherever a stream is cut, another worker goes on in the same channel.
#[test]
fn a_cut_stream_is_the_uncut_one() {
    let stop = vec!["end. And".to_owned(), "é".to_owned()];
    let all = tokens(OUTPUT);
    for cut in 1..all.len() {
        let part = Generate { max_tokens: None, stop: stop.clone(), ..ask(chat()) };
        // What the first worker sends before it dies: it has sent all of these tokens, and knows of no end.
        let mut world =
            World::with_limits(saying(OUTPUT, &chat()), Limits { kv_tokens: 9000, ..super::LIMITS });
        let credit = u32::try_from(cut).unwrap();
        let request = world.requests.begin(part.id, credit).unwrap();
        let sequence = PREPARER.prepare(Generate { credit, ..part.clone() }, request).unwrap();
        world.messages.send(EngineMessage::Sequence(Box::new(sequence))).unwrap();
        world.settle();
        let mut told = Vec::new();
        let mut sent = Vec::new();
        for event in world.reports.events() {
            if let StreamEventKind::Delta(delta) = event.kind {
                sent.extend(delta.tokens);
                told.push(OutputPart::Text(delta.text.into()));
                told.extend(delta.parts);
            }
        }
        assert_eq!(sent, all[..cut]);
        let (rest, _) = run(saying(OUTPUT, &chat()), Generate { resume: sent, ..part });
        told.extend(rest);
        assert_eq!(joined(told), expected(), "cut behind {cut} tokens");
    }
}

/// An output that is cut short shows a beginning of the whole one, and nothing of headers.
#[test]
fn an_output_may_end_anywhere() {
    let whole = |parts: &[OutputPart]| {
        let text = |part: &OutputPart| match part {
            OutputPart::Text(text) | OutputPart::Reasoning(text) => text.clone(),
            OutputPart::CallStart { name, .. } => format!("[{name}]"),
            OutputPart::CallArguments { json, .. } => json.clone(),
        };
        parts.iter().map(text).collect::<String>()
    };
    let all = whole(&expected());
    for length in 1..u32::try_from(tokens(OUTPUT).len()).unwrap() {
        let (told, stream) =
            run(saying(OUTPUT, &chat()), Generate { max_tokens: Some(length), ..ask(chat()) });
        assert_eq!(stream.reason(), Some(FinishReason::Length));
        // Half a character at the end is shown as such.
        let told = whole(&told);
        assert!(all.starts_with(told.trim_end_matches('\u{fffd}')), "{length}: {told}");
    }
}

/// Stop strings are looked for in the answer: not in headers, in reasoning or in calls.
#[test]
fn stop_strings_are_those_of_the_answer() {
    let with =
        |stop: &str| run(saying(OUTPUT, &chat()), Generate { stop: vec![stop.to_owned()], ..ask(chat()) });
    for elsewhere in ["analysis", "é?", "assistant", "weather", "city", "to=", "end.assistant"] {
        assert_eq!(with(elsewhere).0, expected(), "{elsewhere}");
    }
    let (told, stream) = with(" the");
    assert_eq!(told, [expected().remove(0), OutputPart::Text("I ask".into())]);
    assert_eq!(stream.reason(), Some(FinishReason::Stop));
    // What might have become one is not lost.
    let (told, _) = with("end. Not");
    assert_eq!(told, expected());
    let (told, _) = with("end.<|end|>");
    assert_eq!(told, [expected().remove(0), OutputPart::Text("I ask the ".into())]);
}

/// Whatever the model would like to say, its answer is what was asked for, and it may think before.
#[test]
fn a_constraint_is_one_of_the_answer() {
    let kinds = [
        (ConstraintKind::Regex("[0-9]{3}-[a-c]{2}".into()), 6),
        (ConstraintKind::Choice(vec!["the end".into()]), 7),
        (ConstraintKind::JsonSchema("{\"type\": \"boolean\"}".into()), 5),
        (ConstraintKind::Grammar("start: \"a\" /[0-9]/ \"b\"".into()), 3),
    ];
    let mut thought = 0;
    for (kind, most) in kinds {
        for seed in 0..4 {
            // It ends what it thinks sooner or later.
            let end = (tokens("<|end|>")[0], 6.0);
            let sampling = Sampling { temperature: 1.0, seed, logit_bias: vec![end], ..Sampling::default() };
            let output = Some(Constraint { kind: kind.clone(), param: "p".into() });
            let (told, stream) =
                run(FakeModel::random(vocab()), Generate { sampling, output, ..ask(chat()) });
            assert_eq!(stream.reason(), Some(FinishReason::Stop), "{told:?}");
            let (answer, before) = told.split_last().unwrap();
            let OutputPart::Text(answer) = answer else { panic!("{told:?}") };
            assert!((3..=most).contains(&answer.len()), "{answer}");
            assert!(matches!(before, [] | [OutputPart::Reasoning(_)]), "{before:?}");
            thought += before.len();
        }
    }
    assert!((1..16).contains(&thought), "some think, some do not: {thought}");
}
