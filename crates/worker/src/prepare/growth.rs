//! How many times longer a tokenizer can make a text. A few replacements in a row multiply; a file that makes
//! gigabytes of a short text must not be served.

use base64::Engine as _;
use serde_json::Value;

/// Most that the normalizers (or pre-tokenizers, or decoders) of a tokenizer may lengthen a text. What models use
/// stays below 300: compatibility forms by 11, a space to "▁" and a prepended one by 3 and 4, byte characters by 2.
pub(super) const MAX_GROWTH: u64 = 1024;

/// Most steps of one stage: each goes through the whole text. Known tokenizers have at most seven.
pub(super) const MAX_STEPS: usize = 64;

/// The most bytes that one byte of text can become, and the number of steps, in a chain of normalizers,
/// pre-tokenizers or decoders as `tokenizer.json` writes it.
pub(super) fn growth(stage: &Value) -> (u64, usize) {
    let text = |field: &str| stage[field].as_str().unwrap_or_default();
    let factor = match text("type") {
        "Sequence" => {
            let parts = ["normalizers", "pretokenizers", "decoders"]
                .iter()
                .filter_map(|list| stage[list].as_array())
                .flatten();
            return parts.map(growth).fold((1, 0), |(product, count), (factor, steps)| {
                (product.saturating_mul(factor), count.saturating_add(steps))
            });
        }
        // The figures of the Unicode FAQ on normalization, in UTF-8.
        "NFC" | "NFD" => 3,
        "NFKC" | "NFKD" => 11,
        // "İ" becomes two characters of three bytes together.
        "Lowercase" => 2,
        // Spaces around ideographs, decomposition, lower case.
        "BertNormalizer" => 3 * 3 * 2,
        "Replace" => replacement(&stage["pattern"], text("content").len() as u64),
        // Once for each part of the text between added tokens, which has at least a byte.
        "Prepend" => 1 + text("prepend").len() as u64,
        "Precompiled" => longest_entry(text("precompiled_charsmap")),
        // A byte becomes a character of up to two bytes; a space may come before each word.
        "ByteLevel" => 2 * (1 + u64::from(stage["add_prefix_space"] == true)),
        "Metaspace" => 1 + text("replacement").len() as u64,
        _ => 1,
    };
    (factor.max(1), 1)
}

fn replacement(pattern: &Value, content: u64) -> u64 {
    match pattern["String"].as_str().map_or(0, str::len) as u64 {
        // An empty text and many expressions match between any two bytes.
        0 => 1 + content,
        len => content.div_ceil(len),
    }
}

/// Length of the longest text in a SentencePiece character map: a trie, its length before it, and behind it the
/// replacements, each ended by a zero byte.
fn longest_entry(map: &str) -> u64 {
    let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(map) else { return u64::MAX };
    let Some((len, rest)) = bytes.split_first_chunk::<4>() else { return 1 };
    let replacements = rest.get(u32::from_le_bytes(*len) as usize..).unwrap_or(rest);
    replacements.split(|&byte| byte == 0).map(<[u8]>::len).max().unwrap_or(0) as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn factors_multiply_along_a_chain() {
        let llama = json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]});
        assert_eq!(growth(&llama), (12, 2));
        let step = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(16)});
        let bomb = json!({"type": "Sequence", "normalizers": vec![step; 8]});
        assert_eq!(growth(&bomb), (1 << 32, 8));
        let nested = json!({"type": "Sequence", "normalizers": vec![bomb; 3]});
        assert_eq!(growth(&nested), (u64::MAX, 24));
        let anywhere = json!({"type": "Replace", "pattern": {"Regex": "x*"}, "content": "long"});
        assert_eq!(growth(&anywhere), (5, 1));
        let shorter = json!({"type": "Replace", "pattern": {"String": "``"}, "content": "\""});
        assert_eq!(growth(&shorter), (1, 1));
        assert_eq!(growth(&Value::Null), (1, 1));
    }

    #[test]
    fn a_character_map_grows_by_its_longest_entry() {
        let map = [&4_u32.to_le_bytes()[..], b"trie", b"a\0longer\0\0bc\0"].concat();
        let map = base64::engine::general_purpose::STANDARD.encode(map);
        assert_eq!(growth(&json!({"type": "Precompiled", "precompiled_charsmap": map})), (6, 1));
    }
}
