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
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_PUNCTUATION: &str = r"\s?[!-/:-~！-／：-～‘-‟　-。]+";
const DEEPSEEK_IDEOGRAPHS: &str = r"[一-龥ࠀ-一가-퟿]+";
const DEEPSEEK_V3_IDEOGRAPHS: &str = r"[一-龥぀-ゟ゠-ヿ]+";
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
