//! Tokenizers of real models against what Hugging Face's library for Python makes of the same texts.
//! `reference/tokenizers_of_models.py` downloads them, `reference/record_tokenizers.py` has recorded the digests.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use protocol::{
    ids::RequestId,
    message::{ChatMessage, Failure, Generate, Prompt},
};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;
use worker::{
    engine::{EosTokens, emit::Emitter},
    prepare::{ChatTemplate, Preparer, PromptTokenizer, Settings, template::SpecialTokens},
    requests::RequestHandle,
};

#[derive(Deserialize)]
struct Recorded {
    tokenizers: BTreeMap<String, String>,
}

/// One tokenizer, and its file.
struct Model {
    file: Vec<u8>,
    tokenizer: Arc<Tokenizer>,
}

/// What is made of a text.
struct Encoded {
    tokens: Vec<u32>,
    /// With the tokens that are written around a text.
    around: Vec<u32>,
    decoded: String,
}

impl Model {
    fn read(path: &Path) -> Self {
        let file = fs::read(path).unwrap();
        let tokenizer = Arc::clone(PromptTokenizer::from_bytes(&file).unwrap().tokenizer());
        Self { file, tokenizer }
    }

    fn encode(&self, text: &str) -> Encoded {
        let encode = |around| self.tokenizer.encode_fast(text, around).unwrap().get_ids().to_vec();
        let tokens = encode(false);
        let decoded = self.tokenizer.decode(&tokens, true).unwrap();
        Encoded { tokens, around: encode(true), decoded }
    }

    /// The text of an answer of these tokens, piece by piece.
    fn streamed(&self, tokens: &[u32]) -> String {
        let mut emitter = Emitter::new(Arc::clone(&self.tokenizer), &[]);
        let mut text: String = tokens.iter().map(|token| emitter.push(*token).unwrap().0).collect();
        text.push_str(&emitter.finish().unwrap().0);
        text
    }

    /// With room for `room` tokens and one more.
    fn preparer(&self, room: usize) -> Preparer {
        let template = ChatTemplate::new("{{ messages[0].content }}", SpecialTokens::new());
        let settings = Settings {
            template: Some(template.into()),
            eos_tokens: EosTokens::default(),
            context_length: room + 1,
            kv_tokens: usize::MAX,
            vocab_size: u32::MAX,
            special_tokens_in_content: false,
            embedding: None,
        };
        Preparer::new(PromptTokenizer::from_bytes(&self.file).unwrap(), settings)
    }

    fn is_special(&self, token: u32) -> bool {
        self.tokenizer
            .get_added_vocabulary()
            .get_added_tokens_decoder()
            .get(&token)
            .is_some_and(|token| token.special && !token.content.trim().is_empty())
    }
}

impl Encoded {
    fn digest(&self) -> String {
        let ids = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        let all = [ids(&self.tokens), ids(&self.around), self.decoded.clone()].join("\n");
        Sha256::digest(all.as_bytes()).iter().take(3).map(|byte| format!("{byte:02x}")).collect()
    }
}

fn prepare(preparer: &Preparer, prompt: Prompt) -> Result<Vec<u32>, Failure> {
    let generate = Generate { max_tokens: Some(1), ..Generate::new(RequestId(1), prompt, 1) };
    preparer.prepare(generate, Arc::new(RequestHandle::new(1))).map(|sequence| sequence.tokens)
}

fn chat(content: &str) -> Prompt {
    Prompt::Chat(vec![ChatMessage::new("user", content)])
}

/// What is wrong with one text, if anything.
fn problem(model: &Model, all: &Preparer, line: &str, recorded: &str) -> Option<String> {
    let encoded = model.encode(line);
    if encoded.digest() != recorded {
        return Some(format!("{:?} and {:?}: not as recorded", encoded.around, encoded.decoded));
    }
    let streamed = model.streamed(&encoded.tokens);
    if streamed != encoded.decoded {
        return Some(format!("streamed {streamed:?}, not {:?}", encoded.decoded));
    }
    if encoded.tokens.is_empty() {
        return None;
    }
    match prepare(all, Prompt::Text(line.into())) {
        Ok(tokens) if tokens == encoded.around => {}
        other => return Some(format!("as a prompt {other:?}, not {:?}", encoded.around)),
    }
    let tokens = match prepare(all, chat(line)) {
        Ok(tokens) => tokens,
        Err(failure) => return Some(format!("as a chat: {failure:?}")),
    };
    let special = encoded.tokens.iter().any(|token| model.is_special(*token));
    if tokens.iter().any(|token| model.is_special(*token)) || (!special && tokens != encoded.tokens) {
        return Some(format!("as a chat {tokens:?}, and {:?} as a text", encoded.tokens));
    }
    None
}

#[test]
fn tokenizers_of_models_give_what_the_library_gives() {
    let folder = PathBuf::from(std::env::var_os("KR_TEST_TOKENIZERS").expect(
        "KR_TEST_TOKENIZERS names no folder with tokenizers: run `cargo xtask test`, which makes it and sets it",
    ));
    let lines: Vec<String> = serde_json::from_slice(&fs::read(folder.join("lines.json")).unwrap()).unwrap();
    let recorded: Recorded = serde_json::from_str(include_str!("../reference/tokenizers.json")).unwrap();
    let (mut problems, mut compared) = (Vec::new(), 0);
    for (name, digests) in &recorded.tokenizers {
        let path = folder.join(name).join("tokenizer.json");
        if !path.exists() {
            continue;
        }
        let (model, digests) = (Model::read(&path), digests.split(' ').collect::<Vec<_>>());
        assert_eq!(digests.len(), lines.len(), "{name}");
        let all = model.preparer(1 << 20);
        for (line, recorded) in lines.iter().zip(digests) {
            problems
                .extend(problem(&model, &all, line, recorded).map(|it| format!("{name}, {line:?}: {it}")));
        }
        // A prompt that just fits: the bound on its tokens that is looked at first is never above their number.
        let long = lines.concat();
        let tokens = model.encode(&long).around;
        if prepare(&model.preparer(tokens.len()), Prompt::Text(long)).as_ref().ok() != Some(&tokens) {
            problems.push(format!("{name}: a prompt of {} tokens does not fit", tokens.len()));
        }
        compared += 1;
    }
    eprintln!("{compared} of {} tokenizers, {} texts each", recorded.tokenizers.len(), lines.len());
    assert!(compared > 0, "the folder has none of the tokenizers");
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}
