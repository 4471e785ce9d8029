//! Texts of single tokens.

use std::borrow::{Borrow, Cow};

use protocol::message::PieceForm;
use serde_json::Value;
use tokenizers::Tokenizer;

/// Reads the text of tokens in one form.
#[derive(Debug)]
pub struct PieceReader<T> {
    tokenizer: T,
    form: PieceForm,
    /// What the decoder does to each token, before it joins them.
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Each character is a byte.
    ByteLevel,
    /// `<0xE2>` is a byte.
    ByteFallback,
    /// A text in it stands for another.
    Replace(String, String),
    /// A word goes on: this is left out at its beginning.
    Prefix(String),
}

impl<T: Borrow<Tokenizer>> PieceReader<T> {
    /// Reads tokens of `tokenizer`.
    pub fn new(tokenizer: T, form: PieceForm) -> Self {
        let mut steps = Vec::new();
        if form == PieceForm::Bytes {
            let decoder =
                tokenizer.borrow().get_decoder().and_then(|decoder| serde_json::to_value(decoder).ok());
            read(&decoder.unwrap_or_default(), &mut steps);
        }
        Self { tokenizer, form, steps }
    }

    /// The token's text; empty if there is no such token.
    pub fn read(&self, token: u32) -> Vec<u8> {
        let tokenizer = self.tokenizer.borrow();
        let Some(text) = tokenizer.id_to_token(token) else { return Vec::new() };
        // Added tokens are found in the text itself, before anything is made of it.
        let is_added = tokenizer.get_added_vocabulary().get_added_tokens_decoder().contains_key(&token);
        match self.form {
            PieceForm::Bytes if !is_added => self.decode(&text),
            PieceForm::Bytes | PieceForm::Vocabulary => text.into_bytes(),
        }
    }

    /// Whether it is a special token, whose text is in no output.
    pub fn is_special(&self, token: u32) -> bool {
        let added = self.tokenizer.borrow().get_added_vocabulary().get_added_tokens_decoder();
        added.get(&token).is_some_and(|token| token.special)
    }

    fn decode(&self, text: &str) -> Vec<u8> {
        let mut text = Cow::Borrowed(text);
        for step in &self.steps {
            match step {
                Step::ByteLevel => {
                    // A character that stands for no byte is itself, as in tokenizers.
                    let bytes: Option<Vec<u8>> = text.chars().map(byte).collect();
                    return bytes.unwrap_or_else(|| text.into_owned().into_bytes());
                }
                Step::ByteFallback => {
                    let digits = text.strip_prefix("<0x").and_then(|text| text.strip_suffix('>'));
                    let digits = digits.filter(|digits| digits.len() == 2);
                    if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                        return vec![byte];
                    }
                }
                Step::Replace(from, to) => text = Cow::Owned(text.replace(from, to)),
                Step::Prefix(prefix) => {
                    if let Some(rest) = text.strip_prefix(prefix.as_str()) {
                        text = Cow::Owned(rest.to_owned());
                    }
                }
            }
        }
        text.into_owned().into_bytes()
    }
}

/// Adds the steps of a decoder as `tokenizer.json` has it, up to where it joins the tokens.
fn read(decoder: &Value, steps: &mut Vec<Step>) -> bool {
    let text = |key: &str| decoder[key].as_str().unwrap_or_default().to_owned();
    match decoder["type"].as_str().unwrap_or_default() {
        "Sequence" => {
            for part in decoder["decoders"].as_array().into_iter().flatten() {
                if !read(part, steps) {
                    return false;
                }
            }
        }
        "ByteLevel" => steps.push(Step::ByteLevel),
        "ByteFallback" => steps.push(Step::ByteFallback),
        "Metaspace" => steps.push(Step::Replace(text("replacement"), " ".into())),
        "BPEDecoder" => steps.push(Step::Replace(text("suffix"), " ".into())),
        "WordPiece" => steps.push(Step::Prefix(text("prefix"))),
        "Replace" => {
            if let Some(pattern) = decoder["pattern"]["String"].as_str() {
                steps.push(Step::Replace(pattern.to_owned(), text("content")));
            }
        }
        "Fuse" => return false,
        _ => {}
    }
    true
}

/// The byte that a character of byte-level tokenizers stands for: printable ones for themselves, and the others, in
/// order, for the 68 bytes that are not printable.
fn byte(c: char) -> Option<u8> {
    let code = u32::from(c);
    match code {
        33..=126 | 161..=172 | 174..=255 => u8::try_from(code).ok(),
        256..=288 => u8::try_from(code - 256).ok(),
        289..=322 => u8::try_from(code - 289 + 127).ok(),
        323 => Some(173),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use serde_json::json;
    use tokenizers::normalizers::ByteLevel;

    use super::*;
    use crate::prepare::samples;

    #[test]
    fn every_byte_has_its_character() {
        let bytes: BTreeSet<u8> = ByteLevel::alphabet().into_iter().map(|c| byte(c).unwrap()).collect();
        assert_eq!(bytes.len(), 256);
        // "Ġ" is a space and "Ċ" a line feed in every byte-level vocabulary.
        assert_eq!(['Ġ', 'Ċ', '!', 'Ã', '©'].map(byte), [b' ', b'\n', b'!', 0xc3, 0xa9].map(Some));
        assert_eq!(byte('\u{144}'), None);
    }

    #[test]
    fn pieces_of_a_character_are_its_bytes() {
        let tokenizer = samples::load(&samples::small());
        let reader = PieceReader::new(tokenizer.tokenizer().as_ref(), PieceForm::Bytes);
        let texts: Vec<Vec<u8>> = (0..=11).map(|token| reader.read(token)).collect();
        let expected: [&[u8]; 12] =
            [b" ", b" a", b"a", b"b", b"ab", b"\xe2", b"\x82", b"\xac", b"\xc3", b"\xa9", b"<|x|>", b""];
        assert_eq!(texts, expected);
    }

    #[test]
    fn decoders_say_what_a_token_contributes() {
        for (decoder, token, expected) in [
            (
                json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
                "▁the",
                " the",
            ),
            (json!({"type": "WordPiece", "prefix": "##", "cleanup": true}), "##ing", "ing"),
            (json!({"type": "BPEDecoder", "suffix": "</w>"}), "the</w>", "the "),
        ] {
            let mut tokenizer = samples::words();
            tokenizer["model"]["vocab"][token] = 3.into();
            tokenizer["added_tokens"] = json!([]);
            tokenizer["decoder"] = decoder;
            let tokenizer = samples::load(&tokenizer);
            let reader = PieceReader::new(tokenizer.tokenizer().as_ref(), PieceForm::Bytes);
            assert_eq!(String::from_utf8(reader.read(3)).unwrap(), expected);
        }
        let tokenizer = samples::load(&samples::sentencepiece());
        let reader = PieceReader::new(tokenizer.tokenizer().as_ref(), PieceForm::Bytes);
        let read = |token: &str| reader.read(tokenizer.tokenizer().token_to_id(token).unwrap());
        assert_eq!(read("▁the"), b" the");
        assert_eq!(read("<0xE2>"), [0xe2]);
        assert_eq!(read("<|im_end|>"), b"<|im_end|>");
    }
}
