//! A chat of 101 messages, rendered by public templates: `cargo xtask test` downloads them, and
//! `KR_TEST_TEMPLATES=FOLDER cargo bench -p worker --bench template` takes those of the folder that it has made in `.mlx/`.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{collections::BTreeMap, fs, path::PathBuf};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use protocol::message::ChatMessage;
use worker::prepare::template::{ChatTemplate, SpecialTokens};

const MESSAGES: usize = 101;

/// Of different families.
const TEMPLATES: [&str; 6] = [
    "llama.cpp/meta-llama-Llama-3.1-8B-Instruct.jinja",
    "llama.cpp/google-gemma-2-2b-it.jinja",
    "llama.cpp/Qwen-Qwen3-0.6B.jinja",
    "llama.cpp/openai-gpt-oss-120b.jinja",
    "llama.cpp/mistralai-Mistral-Nemo-Instruct-2407.jinja",
    "llama.cpp/HuggingFaceTB-SmolLM3-3B.jinja",
];

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n\
                      {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

criterion_group!(benches, renderings);
criterion_main!(benches);

fn renderings(criterion: &mut Criterion) {
    let mut templates = BTreeMap::from([("ChatML", CHATML.to_owned())]);
    if let Some(folder) = std::env::var_os("KR_TEST_TEMPLATES").map(PathBuf::from) {
        let read = |name| (name, fs::read_to_string(folder.join("templates").join(name)).unwrap());
        templates.extend(TEMPLATES.map(read));
    }
    let special =
        [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(name, text)| (name.into(), text.into()));
    let messages: Vec<ChatMessage> = (0..MESSAGES).map(message).collect();
    let mut group = criterion.benchmark_group("template");
    for (name, source) in templates {
        let template = ChatTemplate::new(&source, SpecialTokens::from(special.clone()));
        template.render(&messages).unwrap();
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| template.render(&messages).unwrap());
        });
    }
}

/// A few hundred bytes from each side in turn, the user's last.
fn message(number: usize) -> ChatMessage {
    let role = if number.is_multiple_of(2) { "user" } else { "assistant" };
    let content =
        format!("Message {number}. {}", "Some words of a conversation that goes on for long. ".repeat(5));
    ChatMessage::new(role, content)
}
