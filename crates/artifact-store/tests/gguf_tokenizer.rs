//! The tokenizers of GGUF files, as the tokenizers library understands them.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use support::{Gguf, boolean, import_gguf, matrix, number, text, texts, tiny_llama};

#[test]
fn the_tokenizer_has_the_pre_tokenizer_that_the_file_names() {
    let (_folder, artifact) = import_gguf(&tiny_llama());
    let json: serde_json::Value = serde_json::from_slice(&artifact.read_tokenizer().unwrap()).unwrap();
    assert_eq!(json["pre_tokenizer"]["pretokenizers"][0]["individual_digits"], true);
    assert_eq!(json["model"]["vocab"]["ab"], 5);
    assert_eq!(json["model"]["merges"], serde_json::json!([["a", "b"]]));
    assert_eq!(json["added_tokens"].as_array().unwrap().len(), 3);
    assert!(json["post_processor"].is_null());

    let mut gguf = tiny_llama();
    gguf.set("tokenizer.ggml.pre", text("llama-bpe"));
    gguf.set("tokenizer.ggml.add_bos_token", boolean(true));
    let (_folder, artifact) = import_gguf(&gguf);
    let json: serde_json::Value = serde_json::from_slice(&artifact.read_tokenizer().unwrap()).unwrap();
    assert_eq!(json["model"]["ignore_merges"], true);
    assert_eq!(json["post_processor"]["special_tokens"]["<|im_start|>"]["ids"][0], 1);
}

/// What the tokenizers library makes of a file with these tokens and merges.
fn library_tokenizer(pre: &str, add_bos: bool) -> tokenizers::Tokenizer {
    // A byte-level vocabulary of everything the texts below need.
    let mut tokens: Vec<String> = ["<|bos|>", "<|im_end|>"].map(str::to_owned).to_vec();
    tokens.extend(('!'..='~').map(String::from));
    tokens.extend(('¡'..='¬').chain('®'..='ÿ').map(String::from));
    tokens.extend(('Ā'..='Ń').map(String::from));
    tokens.extend(["12", "34", "1234", "Ġa"].map(str::to_owned));
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let types: Vec<u32> = (0..tokens.len()).map(|id| if id < 2 { 3 } else { 1 }).collect();

    let mut gguf = tiny_llama();
    gguf.tensors[0] = matrix("token_embd", tokens.len() as u64, support::HIDDEN, 8);
    gguf.set("tokenizer.ggml.pre", text(pre));
    gguf.set("tokenizer.ggml.tokens", texts(&tokens));
    gguf.set("tokenizer.ggml.token_type", support::numbers(&types));
    gguf.set("tokenizer.ggml.merges", texts(&["1 2", "3 4", "12 34", "Ġ a"]));
    gguf.set("tokenizer.ggml.bos_token_id", number(0));
    gguf.set("tokenizer.ggml.eos_token_id", number(1));
    gguf.set("tokenizer.ggml.add_bos_token", boolean(add_bos));
    let (_folder, artifact) = import_gguf(&gguf);
    tokenizers::Tokenizer::from_bytes(artifact.read_tokenizer().unwrap()).unwrap()
}

fn tokens_of(tokenizer: &tokenizers::Tokenizer, text: &str) -> Vec<String> {
    tokenizer.encode(text, true).unwrap().get_tokens().to_vec()
}

#[test]
fn the_tokenizers_library_splits_digits_as_each_pre_tokenizer_says() {
    for (pre, expected) in [
        ("smollm", &["1", "2", "3", "4"][..]),
        ("qwen2", &["1", "2", "3", "4"]),
        ("llama-bpe", &["12", "3", "4"]),
        ("gpt-2", &["1234"]),
        ("dbrx", &["12", "3", "4"]),
        ("gpt-4o", &["12", "3", "4"]),
        ("tekken", &["1", "2", "3", "4"]),
        ("deepseek-llm", &["1", "2", "3", "4"]),
        ("deepseek-coder", &["1", "2", "3", "4"]),
        ("deepseek-v3", &["12", "3", "4"]),
        ("seed-coder", &["1", "2", "3", "4"]),
        ("falcon", &["12", "3", "4"]),
        ("default", &["12", "3", "4"]),
    ] {
        let tokenizer = library_tokenizer(pre, false);
        assert_eq!(tokens_of(&tokenizer, "1234"), expected, "{pre}");
        assert_eq!(tokens_of(&tokenizer, " a<|im_end|>"), ["Ġa", "<|im_end|>"], "{pre}");
        for text in ["Grüße, 世界! 🦀\n\n it's  a", " a  b\t\r\n"] {
            let ids = tokenizer.encode(text, true).unwrap();
            assert_eq!(tokenizer.decode(ids.get_ids(), false).unwrap(), text, "{pre}");
        }
    }
}

/// A tokenizer of the library from a recorded SentencePiece vocabulary.
fn sentencepiece(change: impl FnOnce(&mut Gguf)) -> (serde_json::Value, tokenizers::Tokenizer) {
    let recorded = support::vectors("sentencepiece.json");
    let list = |key: &str| recorded[key].as_array().unwrap().clone();
    let tokens: Vec<String> = list("tokens").iter().map(|token| token.as_str().unwrap().to_owned()).collect();
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let scores: Vec<f32> = list("scores").iter().map(|score| score.as_f64().unwrap() as f32).collect();
    let types: Vec<u32> = list("types").iter().map(|kind| kind.as_u64().unwrap() as u32).collect();

    let mut gguf = tiny_llama();
    gguf.tensors[0] = matrix("token_embd", tokens.len() as u64, support::HIDDEN, 8);
    gguf.set("tokenizer.ggml.model", text("llama"));
    gguf.set("tokenizer.ggml.tokens", texts(&tokens));
    gguf.set("tokenizer.ggml.scores", support::floats(&scores));
    gguf.set("tokenizer.ggml.token_type", support::numbers(&types));
    change(&mut gguf);
    let (_folder, artifact) = import_gguf(&gguf);
    (recorded, tokenizers::Tokenizer::from_bytes(artifact.read_tokenizer().unwrap()).unwrap())
}

#[test]
fn sentencepiece_vocabularies_give_the_tokens_of_sentencepiece() {
    let (recorded, tokenizer) = sentencepiece(|_| {});
    for case in recorded["texts"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let encoded = tokenizer.encode(text, false).unwrap();
        let expected: Vec<u32> =
            case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(encoded.get_ids(), expected, "{text:?}");
        assert_eq!(tokenizer.decode(encoded.get_ids(), true).unwrap(), text);
    }
    let (_, without) = sentencepiece(|gguf| gguf.set("tokenizer.ggml.add_space_prefix", boolean(false)));
    let ids = without.encode("the", false).unwrap();
    assert!(!ids.get_tokens()[0].starts_with('▁'), "{:?}", ids.get_tokens());
}

#[test]
fn a_beginning_token_is_added_where_the_file_says_so() {
    assert_eq!(tokens_of(&library_tokenizer("llama-bpe", true), " a"), ["<|bos|>", "Ġa"]);
    assert_eq!(tokens_of(&library_tokenizer("llama-bpe", false), " a"), ["Ġa"]);
}

/// A SentencePiece file with these pieces of the same score.
fn pieces(pieces: &[String]) -> Gguf {
    let mut gguf = tiny_llama();
    let tokens: Vec<&str> = pieces.iter().map(String::as_str).collect();
    gguf.tensors[0] = matrix("token_embd", tokens.len() as u64, support::HIDDEN, 8);
    gguf.set("tokenizer.ggml.model", text("llama"));
    gguf.set("tokenizer.ggml.tokens", texts(&tokens));
    gguf.set("tokenizer.ggml.scores", support::floats(&vec![-1.0; tokens.len()]));
    gguf.set("tokenizer.ggml.token_type", support::numbers(&vec![1; tokens.len()]));
    gguf
}

#[test]
fn pieces_that_begin_each_other_cannot_make_a_huge_tokenizer() {
    let runs = |longest: usize| -> Vec<String> { (1..=longest).map(|len| "a".repeat(len)).collect() };
    let folder = tempfile::TempDir::new().unwrap();
    let import = |gguf: &Gguf| support::import_bytes(folder.path(), &gguf.bytes());
    let error = import(&pieces(&runs(1000))).unwrap_err().to_string();
    assert!(error.contains("ways to make its tokens"), "{error}");
    let error = import(&pieces(&[vec!["a".repeat(1025)], runs(4)].concat())).unwrap_err().to_string();
    assert!(error.contains("1024 characters"), "{error}");
    let (store, _) = import(&pieces(&runs(64))).unwrap();
    let json = store.resolve("tiny").unwrap().read_tokenizer().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["model"]["merges"].as_array().unwrap().len(), 64 * 63 / 2);
}

#[test]
fn scores_that_are_no_numbers_are_refused() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut gguf = pieces(&["a".to_owned(), "b".to_owned(), "ab".to_owned()]);
        gguf.set("tokenizer.ggml.scores", support::floats(&[-1.0, bad, -3.0]));
        let folder = tempfile::TempDir::new().unwrap();
        let error = support::import_bytes(folder.path(), &gguf.bytes()).unwrap_err().to_string();
        assert!(error.contains("tokenizer.ggml.scores"), "{error}");
    }
}

#[test]
fn named_templates_are_read_and_bounded() {
    let mut gguf = tiny_llama();
    gguf.set("tokenizer.chat_templates", texts(&["tool_use", "absent"]));
    gguf.set("tokenizer.chat_template.tool_use", text("T"));
    let (_folder, artifact) = import_gguf(&gguf);
    assert_eq!(artifact.manifest.chat_template.as_deref(), Some(support::TEMPLATE));
    assert_eq!(
        artifact.manifest.named_chat_templates.into_iter().collect::<Vec<_>>(),
        [("tool_use".into(), "T".into())]
    );

    gguf.set("tokenizer.chat_template", text(&"x".repeat((1 << 20) + 1)));
    let folder = tempfile::TempDir::new().unwrap();
    let error = support::import_bytes(folder.path(), &gguf.bytes()).unwrap_err().to_string();
    assert!(error.contains("chat template"), "{error}");
}

/// A WordPiece file as llama.cpp's converter writes it: what begins a word is marked.
fn wordpiece() -> Gguf {
    let tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁hello", "▁wor", "ld", "▁!", "s", "▁grusse"];
    let mut gguf = tiny_llama();
    gguf.tensors[0] = matrix("token_embd", tokens.len() as u64, support::HIDDEN, 8);
    gguf.set("tokenizer.ggml.model", text("bert"));
    gguf.set("tokenizer.ggml.tokens", texts(&tokens));
    gguf.set("tokenizer.ggml.token_type", support::numbers(&[3, 3, 3, 3, 1, 1, 1, 1, 1, 1]));
    gguf.set("tokenizer.ggml.unknown_token_id", number(1));
    gguf.set("tokenizer.ggml.bos_token_id", number(2));
    gguf.set("tokenizer.ggml.eos_token_id", number(3));
    gguf.set("tokenizer.ggml.add_bos_token", boolean(true));
    gguf
}

#[test]
fn wordpiece_vocabularies_mark_continuations() {
    let (_folder, artifact) = import_gguf(&wordpiece());
    let tokenizer = tokenizers::Tokenizer::from_bytes(artifact.read_tokenizer().unwrap()).unwrap();
    let tokens = |text: &str| tokens_of(&tokenizer, text);
    assert_eq!(tokens("Hello worlds!"), ["[CLS]", "hello", "wor", "##ld", "##s", "!", "[SEP]"]);
    assert_eq!(tokens("GRÜSSE xyz"), ["[CLS]", "grusse", "[UNK]", "[SEP]"]);
    let ids = tokenizer.encode("hello worlds", true).unwrap();
    assert_eq!(tokenizer.decode(ids.get_ids(), true).unwrap(), "hello worlds");

    let mut cased = wordpiece();
    cased.set("tokenizer.ggml.normalizer.lowercase", boolean(false));
    let (_folder, artifact) = import_gguf(&cased);
    let tokenizer = tokenizers::Tokenizer::from_bytes(artifact.read_tokenizer().unwrap()).unwrap();
    assert_eq!(tokens_of(&tokenizer, "Hello"), ["[CLS]", "[UNK]", "[SEP]"]);

    let mut twice = wordpiece();
    twice.set(
        "tokenizer.ggml.tokens",
        texts(&["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁##s", "▁wor", "ld", "▁!", "s", "▁a"]),
    );
    let folder = tempfile::TempDir::new().unwrap();
    let error = support::import_bytes(folder.path(), &twice.bytes()).unwrap_err().to_string();
    assert!(error.contains("the same as another"), "{error}");
}

#[test]
fn a_text_ends_with_the_end_token_where_the_file_says_so() {
    let mut gguf = tiny_llama();
    gguf.set("tokenizer.ggml.add_bos_token", boolean(true));
    gguf.set("tokenizer.ggml.add_eos_token", boolean(true));
    let (_folder, artifact) = import_gguf(&gguf);
    let tokenizer = tokenizers::Tokenizer::from_bytes(artifact.read_tokenizer().unwrap()).unwrap();
    assert_eq!(tokens_of(&tokenizer, "ab"), ["<|im_start|>", "ab", "<|im_end|>"]);
}

/// llama.cpp knows it of the architecture, and so does import.
#[test]
fn tokens_of_phi_3_take_the_spaces_behind_them() {
    let strips = |architecture: &str| {
        let gguf = phi_tokens(architecture);
        let metadata = import_gguf(&gguf).1.read_tokenizer().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&metadata).unwrap();
        let added = json["added_tokens"].as_array().unwrap().clone();
        added.iter().map(|token| token["rstrip"].as_bool().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(strips("llama"), [false, false, false]);
    assert_eq!(strips("phi3"), [false, false, true]);
}

fn phi_tokens(architecture: &str) -> Gguf {
    let mut gguf = pieces(&["<unk>", "<s>", "<|user|>", "a"].map(str::to_owned));
    gguf.set("tokenizer.ggml.token_type", support::numbers(&[2, 3, 4, 1]));
    if architecture == "phi3" {
        gguf.set("general.architecture", text("phi3"));
        for (key, value) in gguf.metadata.clone() {
            if let Some(setting) = key.strip_prefix("llama.") {
                gguf.set(&format!("phi3.{setting}"), value);
            }
        }
        gguf.tensors.retain(|tensor| {
            !["attn_q", "attn_k", "attn_v", "ffn_"].iter().any(|part| tensor.name.contains(part))
        });
        gguf.tensors.extend([
            matrix("blk.0.attn_qkv", 2 * support::HIDDEN, support::HIDDEN, 8),
            matrix("blk.0.ffn_up", 192, support::HIDDEN, 8),
            matrix("blk.0.ffn_down", support::HIDDEN, 96, 8),
        ]);
        let mut norm = gguf.tensors[1].clone();
        norm.name = "blk.0.ffn_norm.weight".to_owned();
        gguf.tensors.push(norm);
    }
    gguf
}
