//! Control tokens that a client typed: text, not control. A message that contains `<|im_end|>` must not end its turn
//! there.
//!
//! Templates mix the messages with their own control tokens in one text. So before the template runs, one character
//! of each control token in a message is replaced by a stand-in, a character for private use that no message has.
//! Like what it stands for, it is one character, and not whitespace, so templates treat it the same. In the rendered
//! text only the template's own control tokens are left to be found; then the stand-ins give way to the characters
//! again, before the text is cut into words.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use aho_corasick::AhoCorasick;
use protocol::message::ChatMessage;
use tokenizers::{
    AddedToken, Model as _, NormalizedString, Normalizer as _, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer as _, Tokenizer, normalizer::Range,
};

use super::template::ChatTemplates;
use crate::engine::EosTokens;

/// Longest beginning or end of a control token that is looked for where a message ends or begins.
const MAX_PARTIAL: usize = 64;

/// Bytes of text that are normalized at once to look for control tokens, and by how many two of them overlap.
const WINDOW: usize = 16 << 10;
const OVERLAP: usize = 1 << 10;

/// Private use, plane 16: nothing but stand-ins is known to use it.
const STAND_INS: std::ops::RangeInclusive<char> = '\u{100000}'..='\u{10fffd}';

/// Roles that templates are written for. Some make the control token of the role's name.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// A tokenizer's control tokens.
#[derive(Debug)]
pub(super) struct ControlTokens {
    tokenizer: Arc<Tokenizer>,
    whole: AhoCorasick,
    /// What the normalizer makes of those that are looked for in normalized text.
    normalized: Option<AhoCorasick>,
    /// Beginnings of control tokens: the template, or another message, may complete what a message ends with.
    beginnings: HashSet<String>,
    /// Ends of control tokens, of two characters and more.
    ends: HashSet<String>,
}

/// The messages use every character that could be a stand-in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoStandIns;

/// What a client wrote, and templates lay out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conversation<'a> {
    pub(super) messages: &'a [ChatMessage],
    /// A list in JSON.
    pub(super) tools: Option<&'a str>,
}

/// A conversation without control tokens.
#[derive(Debug)]
pub(super) struct Disguised {
    /// With stand-ins.
    messages: Vec<ChatMessage>,
    tools: Option<String>,
    /// What each stand-in stands for.
    stand_ins: HashMap<char, char>,
}

/// What stands for which character.
struct StandIns<I> {
    free: I,
    by_character: HashMap<char, char>,
}

impl ControlTokens {
    /// Those texts of a tokenizer that change the course of a chat: special tokens, and of the other added ones those that
    /// end an output or that a chat template writes. `None` if it has none. Tokens from `vocab_size` on are left out: their
    /// text is refused.
    pub(super) fn of(
        tokenizer: &Arc<Tokenizer>,
        eos_tokens: &EosTokens,
        templates: Option<&ChatTemplates>,
        vocab_size: u32,
    ) -> Option<Self> {
        let written = |text: &str| is_marker(text) && templates.is_some_and(|it| it.contain(text));
        let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        let tokens: Vec<&AddedToken> = added
            .iter()
            .filter(|&(id, token)| token.special || eos_tokens.contains(*id) || written(&token.content))
            .filter(|&(id, _)| *id < vocab_size)
            .map(|(_, token)| token)
            // Templates lay out their text with whitespace: that is never control alone.
            .filter(|token| !token.content.trim().is_empty())
            .collect();
        if tokens.is_empty() {
            return None;
        }
        let texts: BTreeSet<&str> = tokens.iter().map(|token| token.content.as_str()).collect();
        let parts = |part: fn(&str, usize) -> &str, min: usize| -> HashSet<String> {
            let parts_of = |text: &&str| -> Vec<String> {
                let cuts = text.char_indices().map(|(at, _)| at).skip(1);
                cuts.map(|at| part(text, at))
                    .filter(|part| part.len() <= MAX_PARTIAL && part.chars().nth(min - 1).is_some())
                    .map(str::to_owned)
                    .collect()
            };
            texts.iter().flat_map(parts_of).collect()
        };
        let beginnings = parts(|text, at| &text[..at], 1);
        let ends = parts(|text, at| &text[at..], 2);
        // An error would mean more patterns than a tokenizer can have tokens.
        let whole = AhoCorasick::new(&texts).ok()?;
        let normalized = normalized(tokenizer, &tokens);
        Some(Self { tokenizer: Arc::clone(tokenizer), whole, normalized, beginnings, ends })
    }

    /// The conversation with stand-ins; `None` if no control token is in it.
    pub(super) fn disguise(&self, conversation: Conversation<'_>) -> Result<Option<Disguised>, NoStandIns> {
        let Conversation { messages, tools } = conversation;
        let known = |text: &&String| ROLES.contains(&text.as_str());
        let mut places: Vec<Vec<usize>> = Vec::with_capacity(2 * messages.len());
        for message in messages {
            let role = message.texts().next().filter(known);
            let texts = message.texts().enumerate();
            places.extend(texts.map(|(index, text)| match role {
                Some(_) if index == 0 => Vec::new(),
                _ => self.places(text),
            }));
        }
        let in_tools = tools.map(|tools| self.places(tools)).unwrap_or_default();
        if places.iter().chain([&in_tools]).all(Vec::is_empty) {
            return Ok(None);
        }
        let mut stand_ins = StandIns { free: free_stand_ins(conversation), by_character: HashMap::new() };
        let mut disguised = messages.to_vec();
        for (text, places) in disguised.iter_mut().flat_map(ChatMessage::texts_mut).zip(&places) {
            *text = stand_ins.replace(text, places)?;
        }
        let tools = tools.map(|tools| stand_ins.replace(tools, &in_tools)).transpose()?;
        let by_character = stand_ins.by_character.into_iter();
        let stand_ins = by_character.map(|(c, stand_in)| (stand_in, c)).collect();
        Ok(Some(Disguised { messages: disguised, tools, stand_ins }))
    }

    /// Where characters have to be replaced so that no control token is left, and none can be completed.
    fn places(&self, text: &str) -> Vec<usize> {
        let mut places: Vec<usize> =
            self.whole.find_overlapping_iter(text).map(|found| found.start()).collect();
        // Templates trim what they put next to their own text.
        for text in [text, text.trim_end()] {
            let near_end = text.char_indices().rev().take_while(|(at, _)| text.len() - at <= MAX_PARTIAL);
            places.extend(near_end.map(|(at, _)| at).filter(|&at| self.beginnings.contains(&text[at..])));
        }
        for (trimmed, text) in [(0, text), (text.len() - text.trim_start().len(), text.trim_start())] {
            let near_begin = text.char_indices().take_while(|(at, _)| *at < MAX_PARTIAL);
            let completes = near_begin.filter(|(at, c)| self.ends.contains(&text[..at + c.len_utf8()]));
            places.extend(completes.map(|(at, _)| trimmed + at));
        }
        self.add_normalized_places(text, &mut places);
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Adds where the normalizer would make a control token of something else.
    fn add_normalized_places(&self, text: &str, places: &mut Vec<usize>) {
        let (Some(patterns), Some(normalizer)) = (&self.normalized, self.tokenizer.get_normalizer()) else {
            return;
        };
        let mut begin = 0;
        while begin < text.len() {
            let end = text.floor_char_boundary(begin.saturating_add(WINDOW).saturating_add(OVERLAP));
            let window = &text[begin..end];
            let mut normalized = NormalizedString::from(window);
            // Encoding it will fail in the same way, and then it is the request that fails.
            if normalizer.normalize(&mut normalized).is_ok() {
                for found in patterns.find_overlapping_iter(normalized.get()) {
                    let range =
                        normalized.convert_offsets(Range::Normalized(found.range())).unwrap_or_default();
                    let first =
                        window.get(range.clone()).and_then(|from| from.find(|c: char| !c.is_whitespace()));
                    places.extend(first.map(|at| begin + range.start + at));
                }
            }
            begin = text.floor_char_boundary(begin + WINDOW);
        }
    }
}

impl<I: Iterator<Item = char>> StandIns<I> {
    /// The text with stand-ins for the characters at `places`.
    fn replace(&mut self, text: &str, places: &[usize]) -> Result<String, NoStandIns> {
        let mut replaced = String::with_capacity(text.len());
        let mut end = 0;
        for &place in places {
            let Some(c) = text[place..].chars().next() else { continue };
            let stand_in = match self.by_character.get(&c) {
                Some(&stand_in) => stand_in,
                None => *self.by_character.entry(c).or_insert(self.free.next().ok_or(NoStandIns)?),
            };
            replaced.push_str(&text[end..place]);
            replaced.push(stand_in);
            end = place + c.len_utf8();
        }
        replaced.push_str(&text[end..]);
        Ok(replaced)
    }
}

impl Disguised {
    /// With stand-ins.
    pub(super) fn conversation(&self) -> Conversation<'_> {
        Conversation { messages: &self.messages, tools: self.tools.as_deref() }
    }

    /// A rendered text as the messages mean it.
    pub(super) fn reveal(&self, text: &str) -> String {
        text.chars().map(|c| self.character(c)).collect()
    }

    /// Token ids of a text that was rendered from the disguised messages: what the tokenizer makes of it, but that
    /// nothing in a message is a control token.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub(super) fn encode(&self, tokenizer: &Tokenizer, text: &str) -> tokenizers::Result<Vec<u32>> {
        let added = tokenizer.get_added_vocabulary();
        let mut pieces: PreTokenizedString = added.extract_and_normalize(tokenizer.get_normalizer(), text);
        pieces.normalize(|piece| {
            if piece.get().contains(|c| self.stand_ins.contains_key(&c)) {
                piece.map(|c| self.character(c));
            }
            Ok(())
        })?;
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|word| tokenizer.get_model().tokenize(word.get()))?;
        let tokens = pieces.get_splits(OffsetReferential::Normalized, OffsetType::None);
        Ok(tokens
            .into_iter()
            .filter_map(|(_, _, tokens)| tokens.as_ref())
            .flatten()
            .map(|token| token.id)
            .collect())
    }

    fn character(&self, c: char) -> char {
        self.stand_ins.get(&c).copied().unwrap_or(c)
    }
}

/// Whether a token that is not special may be one with which a template marks turns: `<｜User｜>`, and neither a word, nor one
/// that marks a part of a message, as `<think>` and `</tool_call>` do. Templates look for these in messages, and clients send
/// back what a model wrote.
fn is_marker(text: &str) -> bool {
    let inner = text.trim_matches(|c: char| !c.is_alphanumeric());
    let enclosed = !inner.is_empty() && !text.starts_with(inner) && !text.ends_with(inner);
    let element = text.strip_prefix('<').and_then(|text| text.strip_suffix('>'));
    let element = element.map(|name| name.strip_prefix('/').unwrap_or(name));
    let is_name = |name: &str| name.chars().all(|c| c.is_alphanumeric() || "_-".contains(c));
    enclosed && !element.is_some_and(is_name)
}

/// Finds the tokens that are looked for in normalized text; `None` if there are none or nothing is normalized.
fn normalized(tokenizer: &Tokenizer, tokens: &[&AddedToken]) -> Option<AhoCorasick> {
    let normalizer = tokenizer.get_normalizer()?;
    let normalize = |token: &&AddedToken| {
        let mut text = NormalizedString::from(token.content.as_str());
        normalizer.normalize(&mut text).ok()?;
        Some(text.get().to_owned()).filter(|text| !text.trim().is_empty())
    };
    let patterns: Vec<String> =
        tokens.iter().filter(|token| token.normalized).filter_map(normalize).collect();
    if patterns.is_empty() { None } else { AhoCorasick::new(patterns).ok() }
}

/// Stand-ins that are nowhere in a conversation.
fn free_stand_ins(conversation: Conversation<'_>) -> impl Iterator<Item = char> + use<> {
    let Conversation { messages, tools } = conversation;
    let texts = messages.iter().flat_map(ChatMessage::texts).map(String::as_str).chain(tools);
    let used: HashSet<char> = texts.flat_map(str::chars).filter(|c| STAND_INS.contains(c)).collect();
    STAND_INS.filter(move |c| !used.contains(c))
}

#[cfg(test)]
mod tests;
