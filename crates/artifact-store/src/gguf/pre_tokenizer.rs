//! How byte-level vocabularies split a text before they merge, by the name that `tokenizer.ggml.pre` has for it.

use serde_json::{Value, json};

use super::GgufError;

/// A row of the table.
pub(super) struct PreTokenizer {
    /// Several vocabularies may split alike.
    names: &'static [&'static str],
    /// Whether a text is brought to Unicode's composed form first.
    nfc: bool,
    steps: &'static [Step],
    /// A piece that is a token as a whole is not merged up to it.
    pub(super) ignore_merges: bool,
    /// Whether a text begins with the bos token if the metadata does not say.
    pub(super) add_bos: bool,
}

/// A way of splitting what the steps before it have left.
enum Step {
    /// Every match is a piece, and so is what is between two.
    Regex(&'static str),
    /// Every digit is a piece.
    Digits,
    /// As GPT-2 does it.
    Gpt2,
}

const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
/// Letters that have cases, of Latin, Greek, Cyrillic and others.
const DEEPSEEK_LETTERS: &str = "\\s?[\
     A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}\u{370}-\u{373}\
     \u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}\
     \u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\
     \u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\
     \u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\
     \u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\
     \u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\
     \u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}\
     \u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\u{a680}-\u{a69b}\
     \u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\
     \u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\
     \u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}\
     ]+";
const DEEPSEEK_PUNCTUATION: &str =
    "\\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+";
const DEEPSEEK_IDEOGRAPHS: &str = "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";
const DEEPSEEK_V3_IDEOGRAPHS: &str = "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

const TABLE: [PreTokenizer; 15] = [
    PreTokenizer::new(&["gpt-2", "phi-2"], &[Step::Gpt2]),
    PreTokenizer::new(&["smollm", "starcoder", "refact", "codeshell"], &[Step::Digits, Step::Gpt2]),
    PreTokenizer { nfc: true, ..PreTokenizer::new(&["command-r"], &[Step::Digits, Step::Gpt2]) },
    PreTokenizer { nfc: true, ..PreTokenizer::new(&["olmo", "mpt"], &[Step::Gpt2]) },
    PreTokenizer {
        ignore_merges: true,
        add_bos: true,
        ..PreTokenizer::new(&["llama-bpe", "llama3", "llama-v3"], &[Step::Regex(CL100K)])
    },
    // The second of Phi 4.
    PreTokenizer::new(&["smaug-bpe", "dbrx"], &[Step::Regex(CL100K)]),
    PreTokenizer {
        nfc: true,
        ..PreTokenizer::new(&["qwen2", "deepseek-r1-qwen", "megrez"], &[Step::Regex(QWEN2)])
    },
    PreTokenizer::new(&["seed-coder"], &[Step::Regex(SEED_CODER)]),
    // Of gpt-oss and Phi 4 mini.
    PreTokenizer {
        ignore_merges: true,
        ..PreTokenizer::new(&["gpt-4o", "llama4", "kanana2"], &[Step::Regex(O200K)])
    },
    PreTokenizer {
        ignore_merges: true,
        add_bos: true,
        ..PreTokenizer::new(&["tekken"], &[Step::Regex(TEKKEN)])
    },
    PreTokenizer::new(
        &["deepseek-llm"],
        &[
            Step::Regex(r"[\r\n]"),
            Step::Regex(DEEPSEEK_LETTERS),
            Step::Regex(DEEPSEEK_PUNCTUATION),
            Step::Regex(r"\s+$"),
            Step::Regex(DEEPSEEK_IDEOGRAPHS),
            Step::Digits,
        ],
    ),
    PreTokenizer::new(
        &["deepseek-coder"],
        &[
            Step::Regex(r"[\r\n]"),
            Step::Regex(r"\s?\p{L}+"),
            Step::Regex(r"\s?\p{P}+"),
            Step::Regex(DEEPSEEK_IDEOGRAPHS),
            Step::Digits,
        ],
    ),
    PreTokenizer::new(
        &["deepseek-v3"],
        &[Step::Regex(r"\p{N}{1,3}"), Step::Regex(DEEPSEEK_V3_IDEOGRAPHS), Step::Regex(DEEPSEEK_V3)],
    ),
    PreTokenizer::new(
        &["falcon"],
        &[Step::Regex(r"[\p{P}\$\+<=>\^~\|`]+"), Step::Regex(GPT2), Step::Regex("[0-9][0-9][0-9]")],
    ),
    // What llama.cpp does where it does not know better.
    PreTokenizer::new(
        &["default"],
        &[
            Step::Regex(r"[\p{P}\$\+<=>\^~\|]+"),
            Step::Regex(GPT2),
            Step::Regex(r"\p{N}+"),
            Step::Regex("[0-9][0-9][0-9]"),
        ],
    ),
];

impl PreTokenizer {
    const fn new(names: &'static [&'static str], steps: &'static [Step]) -> Self {
        Self { names, nfc: false, steps, ignore_merges: false, add_bos: false }
    }

    /// # Errors
    /// A name that is not in the table: a wrong pre-tokenizer gives wrong tokens without any error.
    pub(super) fn named(name: &str) -> Result<&'static Self, GgufError> {
        const ROWS: &[PreTokenizer] = &TABLE;
        ROWS.iter().find(|row| row.names.contains(&name)).ok_or_else(|| {
            let known: Vec<&str> = ROWS.iter().flat_map(|row| row.names).copied().collect();
            GgufError::Unsupported(format!(
                "its pre-tokenizer `{name}` is not known ({} are); import the original safetensors folder instead",
                known.join(", ")
            ))
        })
    }

    pub(super) fn normalizer(&self) -> Value {
        if self.nfc { json!({ "type": "NFC" }) } else { Value::Null }
    }

    /// As the tokenizers library describes it.
    pub(super) fn json(&self) -> Value {
        let steps = self.steps.iter().map(|step| match step {
            Step::Regex(regex) => json!({
                "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false,
            }),
            Step::Digits => json!({ "type": "Digits", "individual_digits": true }),
            Step::Gpt2 => byte_level(true),
        });
        let mut steps: Vec<Value> = steps.collect();
        if !matches!(self.steps.last(), Some(Step::Gpt2)) {
            steps.push(byte_level(false));
        }
        json!({ "type": "Sequence", "pretokenizers": steps })
    }
}

/// Bytes to characters that stand for them; `splits`: after GPT-2's regular expression.
pub(super) fn byte_level(splits: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": splits })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_name_is_there_once() {
        let mut names = HashSet::new();
        for name in TABLE.iter().flat_map(|row| row.names) {
            assert!(names.insert(name), "{name}");
        }
    }
}
