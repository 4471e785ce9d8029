//! A WordPiece vocabulary (BERT), whose words the file marks where the original marks their continuations.

use serde_json::{Map, Value, json};

use super::{
    GgufError,
    metadata::Metadata,
    vocabulary::{CONTROL, Parts, UNKNOWN, USER_DEFINED, Vocabulary},
};

/// Before a piece that begins a word, in the file.
const WORD: &str = "▁";
/// Before any other piece, in the original.
const CONTINUATION: &str = "##";
/// The original's limit; a longer word is unknown.
const MAX_WORD: u32 = 100;

/// The parts of `tokenizer.json` that this kind of vocabulary decides.
///
/// # Errors
/// Pieces that can't be told apart, or no unknown token.
pub(super) fn parts(metadata: &Metadata, vocabulary: &Vocabulary<'_>) -> Result<Parts, GgufError> {
    let unknown = vocabulary.token_at(metadata, "tokenizer.ggml.unknown_token_id")?;
    let unknown = match unknown {
        Some((_, text)) => text,
        None if vocabulary.ids.contains_key("[UNK]") => "[UNK]",
        None => return Err(GgufError::MissingKey("tokenizer.ggml.unknown_token_id".to_owned())),
    };
    let flag = |name: &str| metadata.boolean(&format!("tokenizer.ggml.normalizer.{name}"));
    let lowercase = flag("lowercase")?.unwrap_or(true);
    Ok(Parts {
        normalizer: json!({
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": true,
            "strip_accents": flag("strip_accents")?,
            "lowercase": lowercase,
        }),
        pre_tokenizer: json!({ "type": "BertPreTokenizer" }),
        decoder: json!({ "type": "WordPiece", "prefix": CONTINUATION, "cleanup": true }),
        model: json!({
            "type": "WordPiece",
            "unk_token": unknown,
            "continuing_subword_prefix": CONTINUATION,
            "max_input_chars_per_word": MAX_WORD,
            "vocab": pieces(vocabulary)?,
        }),
        added: vec![CONTROL, USER_DEFINED, UNKNOWN],
        add_bos: true,
        add_eos: true,
    })
}

/// Every piece as the original has it, with its id.
fn pieces(vocabulary: &Vocabulary<'_>) -> Result<Map<String, Value>, GgufError> {
    let mut pieces = Map::new();
    for ((token, kind), id) in vocabulary.tokens.iter().zip(&vocabulary.types).zip(0_u32..) {
        let piece = match token.strip_prefix(WORD) {
            _ if [CONTROL, USER_DEFINED, UNKNOWN].contains(kind) => (*token).to_owned(),
            Some(word) => word.to_owned(),
            None => format!("{CONTINUATION}{token}"),
        };
        if pieces.insert(piece, id.into()).is_some() {
            return Err(GgufError::Damaged(format!("the token `{token}` is the same as another one")));
        }
    }
    Ok(pieces)
}
