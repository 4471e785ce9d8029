//! What a tokenizer does to a text before its model spells it with tokens.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use tokenizers::{ModelWrapper, Tokenizer};
use unicode_normalization::{
    IsNormalized, UnicodeNormalization as _, char::canonical_combining_class, is_nfc_quick,
};

use super::AFTER_GAP;

/// How a text and a token compare, byte by byte.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Where each byte is a character of the vocabulary: that character's byte.
    bytes: Option<HashMap<char, u8>>,
    /// The character that stands for a space in the vocabulary.
    space: Option<char>,
    /// A space may be added before the text, or before a part of it.
    adds_space: bool,
    drops_whitespace: bool,
    /// The text is cut at all whitespace.
    splits_words: bool,
    rewrites: Rewrites,
    /// Where each byte is a character: those that the vocabulary lacks.
    unspelled: HashSet<u8>,
    /// The characters that the vocabulary has, if it can't spell the others byte by byte.
    characters: Option<HashSet<char>>,
    /// Each stretch between whitespace is at least a token, and may be only one however long it is.
    words: bool,
}

/// Which characters a normalizer may replace by others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Rewrites {
    #[default]
    None,
    /// Those that NFC composes.
    Nfc,
    /// All but ASCII.
    NotAscii,
    /// Any; but not whitespace, and nothing vanishes.
    Letters,
}

impl Rules {
    /// The rules of `tokenizer`; `None` if a token of it may stand for any length of text.
    pub(super) fn of(tokenizer: &Tokenizer, vocabulary: &HashMap<String, u32>) -> Option<Self> {
        let mut rules = Self::default();
        rules.read(&serde_json::to_value(tokenizer.get_normalizer()).ok()?)?;
        rules.read(&serde_json::to_value(tokenizer.get_pre_tokenizer()).ok()?)?;
        rules.read_model(tokenizer.get_model(), vocabulary)?;
        for token in tokenizer.get_added_vocabulary().get_added_tokens_decoder().values() {
            // Such a token includes the whitespace next to it.
            rules.drops_whitespace |= token.lstrip || token.rstrip;
            if rules.rewrites == Rewrites::NotAscii && !token.content.is_ascii() {
                return None;
            }
            if rules.words && token.content.contains(char::is_whitespace) {
                return None;
            }
        }
        (rules.words || rules.rewrites != Rewrites::Letters).then_some(rules)
    }

    /// Whether only words can be counted.
    pub(super) fn counts_words(&self) -> bool {
        self.words
    }

    /// Whether a token may begin with a space that the text does not have.
    pub(super) fn adds_space(&self) -> bool {
        self.adds_space
    }

    /// The bytes of text for which a token of the vocabulary stands.
    pub(super) fn spell(&self, token: &str) -> Vec<u8> {
        match &self.bytes {
            Some(bytes) => {
                let spelled: Option<Vec<u8>> = token.chars().map(|c| bytes.get(&c).copied()).collect();
                // A token with other characters is not made of bytes: only an added one's text is.
                spelled.unwrap_or_else(|| token.into())
            }
            None => self.spaces(token).into_bytes(),
        }
    }

    /// The forms in which the text of an added token may stand in a text.
    pub(super) fn spell_added(&self, content: &str) -> Vec<Vec<u8>> {
        let mut forms = vec![self.spaces(content)];
        if self.rewrites == Rewrites::Nfc {
            forms.push(self.spaces(&content.nfc().collect::<String>()));
        }
        if self.adds_space {
            forms.extend(forms.clone().into_iter().map(|form| format!(" {form}")));
        }
        forms.into_iter().map(String::into_bytes).collect()
    }

    /// The bytes that have to be spelled, with a mark where others were left out before.
    pub(super) fn items<'a>(&'a self, text: &'a str) -> impl Iterator<Item = u16> + 'a {
        let mut gap = false;
        text.char_indices().flat_map(move |(at, c)| {
            let next = text[at + c.len_utf8()..].chars().next();
            let mut items = [0; 4];
            let mut len = 0;
            if self.is_gap(c, next) {
                gap = true;
            } else {
                let c = if self.space == Some(c) { ' ' } else { c };
                for &byte in c.encode_utf8(&mut [0; 4]).as_bytes() {
                    if self.unspelled.contains(&byte) {
                        gap = true;
                        continue;
                    }
                    items[len] = u16::from(byte) | if std::mem::take(&mut gap) { AFTER_GAP } else { 0 };
                    len += 1;
                }
            }
            items.into_iter().take(len)
        })
    }

    fn spaces(&self, text: &str) -> String {
        self.space.map_or_else(|| text.to_owned(), |space| text.replace(space, " "))
    }

    /// Whether `c` may be dropped, or become something else together with what follows it.
    fn is_gap(&self, c: char, next: Option<char>) -> bool {
        let rewritten = |c: char| match self.rewrites {
            Rewrites::None | Rewrites::Letters => false,
            Rewrites::Nfc => !c.is_ascii() && !is_stable(c),
            Rewrites::NotAscii => !c.is_ascii(),
        };
        let unknown = |characters: &HashSet<char>| {
            !characters.contains(&if c == ' ' { self.space.unwrap_or(c) } else { c })
        };
        (self.drops_whitespace && c.is_whitespace())
            || rewritten(c)
            || next.is_some_and(rewritten)
            || self.characters.as_ref().is_some_and(unknown)
    }

    /// Adds what a normalizer or pre-tokenizer does, as `tokenizer.json` writes it.
    fn read(&mut self, stage: &Value) -> Option<()> {
        match stage["type"].as_str() {
            None if stage.is_null() => {}
            Some("Sequence") => {
                for list in ["normalizers", "pretokenizers"] {
                    for part in stage[list].as_array().into_iter().flatten() {
                        self.read(part)?;
                    }
                }
            }
            Some("NFC") => self.rewrite(Rewrites::Nfc),
            Some("NFD" | "NFKC" | "NFKD" | "StripAccents") => self.rewrite(Rewrites::NotAscii),
            Some("Lowercase") => self.rewrite(Rewrites::Letters),
            Some("Replace") if stage["pattern"]["String"] == " " => {
                self.space_is(single(stage["content"].as_str()?)?)?;
            }
            Some("Prepend") => {
                let prepended = single(stage["prepend"].as_str()?)?;
                self.adds_space = true;
                if prepended != ' ' {
                    self.space_is(prepended)?;
                }
            }
            Some("Metaspace") => {
                self.space_is(single(stage["replacement"].as_str()?)?)?;
                self.adds_space = true;
            }
            Some("ByteLevel") => {
                self.bytes = Some(byte_characters());
                self.adds_space |= stage["add_prefix_space"] == true;
            }
            Some("BertPreTokenizer" | "Whitespace" | "WhitespaceSplit") => {
                (self.drops_whitespace, self.splits_words) = (true, true);
            }
            Some("Strip") => self.drops_whitespace = true,
            Some("Split" | "Punctuation") if stage["behavior"] != "Removed" => {}
            Some("Digits" | "UnicodeScripts" | "FixedLength") => {}
            _ => return None,
        }
        (self.bytes.is_none() || self.space.is_none()).then_some(())
    }

    fn rewrite(&mut self, rewrites: Rewrites) {
        self.rewrites = match (self.rewrites, rewrites) {
            (Rewrites::None, new) => new,
            (Rewrites::Letters, _) | (_, Rewrites::Letters) => Rewrites::Letters,
            (old, new) if old == new => new,
            _ => Rewrites::NotAscii,
        };
    }

    fn space_is(&mut self, character: char) -> Option<()> {
        // Two different characters could be chained, and nothing known does that.
        (*self.space.get_or_insert(character) == character).then_some(())
    }

    fn read_model(&mut self, model: &ModelWrapper, vocabulary: &HashMap<String, u32>) -> Option<()> {
        let has = |token: &str| vocabulary.contains_key(token);
        let spells_bytes = || (0..=u8::MAX).all(|byte| has(&format!("<{byte:#04X}>")));
        match model {
            ModelWrapper::BPE(bpe) => {
                let changed = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
                if changed(&bpe.continuing_subword_prefix) || changed(&bpe.end_of_word_suffix) {
                    return None;
                }
                match &self.bytes {
                    Some(bytes) => {
                        let lacks = |(c, byte): (&char, &u8)| (!has(&c.to_string())).then_some(*byte);
                        self.unspelled = bytes.iter().filter_map(lacks).collect();
                    }
                    None if bpe.byte_fallback && spells_bytes() => {}
                    None => self.characters = Some(single_characters(vocabulary)),
                }
            }
            ModelWrapper::Unigram(unigram) if self.bytes.is_none() => {
                if !(unigram.byte_fallback() && spells_bytes()) {
                    self.characters = Some(single_characters(vocabulary));
                }
            }
            ModelWrapper::WordLevel(_) | ModelWrapper::WordPiece(_) => {
                // A word that it does not have is one token.
                let keeps_words = matches!(self.rewrites, Rewrites::None | Rewrites::Nfc | Rewrites::Letters);
                self.words = keeps_words && self.space.is_none() && self.bytes.is_none();
                return (self.words && self.splits_words).then_some(());
            }
            ModelWrapper::Unigram(_) => return None,
        }
        Some(())
    }
}

/// Whether NFC leaves a character as it is, unless the next one composes with it.
fn is_stable(c: char) -> bool {
    canonical_combining_class(c) == 0 && is_nfc_quick(std::iter::once(c)) == IsNormalized::Yes
}

fn single(text: &str) -> Option<char> {
    let mut chars = text.chars();
    chars.next().filter(|_| chars.next().is_none())
}

/// The characters that stand for bytes in byte-level vocabularies: printable ones for themselves, and the others,
/// in order, from U+0100 on.
fn byte_characters() -> HashMap<char, u8> {
    let mut next = 0x100;
    let mut table = HashMap::new();
    for byte in 0..=u8::MAX {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let character = if printable { char::from(byte) } else { char::from_u32(next).unwrap_or_default() };
        next += u32::from(!printable);
        table.insert(character, byte);
    }
    table
}

fn single_characters(vocabulary: &HashMap<String, u32>) -> HashSet<char> {
    vocabulary.keys().filter_map(|token| single(token)).collect()
}

#[cfg(test)]
mod tests {
    use tokenizers::normalizers::ByteLevel;

    use super::*;

    #[test]
    fn byte_characters_are_those_of_the_tokenizers_crate() {
        let table: HashSet<char> = byte_characters().into_keys().collect();
        assert_eq!(table.len(), 256);
        assert_eq!(table, ByteLevel::alphabet().into_iter().collect());
    }
}
