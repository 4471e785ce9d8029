//! Tokens and their text: a token for each byte, and one for each of some words, which is what streams consist of.

/// Number of token ids: bytes, then words.
pub(crate) const VOCABULARY: u32 = BYTES + WORDS;

const BYTES: u32 = 256;
const WORDS: u32 = 4096;

/// The tokens of a text: its bytes.
pub(crate) fn tokenize(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

/// The text of tokens; an unknown one is the error.
pub(crate) fn detokenize(tokens: &[u32]) -> Result<String, u32> {
    let mut text = Vec::with_capacity(tokens.len());
    for &token in tokens {
        text.extend(bytes(token)?);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// What one token contributes to a text; an unknown one is the error.
pub(crate) fn bytes(token: u32) -> Result<Vec<u8>, u32> {
    match u8::try_from(token) {
        Ok(byte) => Ok(vec![byte]),
        Err(_) if token < VOCABULARY => Ok(word(token).into_bytes()),
        Err(_) => Err(token),
    }
}

/// The text of a word's token: about as long as most tokens of a language model are.
pub(crate) fn word(token: u32) -> String {
    format!(" {:03x}", token.saturating_sub(BYTES))
}

/// The word at a position of the output of a stream with this seed.
pub(crate) fn draw(seed: u64, position: u32) -> u32 {
    BYTES + (mix(seed.wrapping_add(u64::from(position))) % u64::from(WORDS)) as u32
}

/// The seed of a stream: its prompt's bytes and the request's own seed.
pub(crate) fn seed<'a>(parts: impl IntoIterator<Item = &'a [u8]>, seed: u64) -> u64 {
    let chunks = parts.into_iter().flat_map(|part| part.chunks(8));
    chunks.fold(mix(seed), |state, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(state ^ u64::from_le_bytes(word) ^ chunk.len() as u64)
    })
}

/// A bijection that spreads every bit over all (the finalizer of SplitMix64).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_its_bytes_and_comes_back() {
        for text in ["", "plain", "größer 🙂"] {
            let tokens = tokenize(text);
            assert_eq!(tokens.len(), text.len());
            assert_eq!(detokenize(&tokens).as_deref(), Ok(text));
        }
        assert_eq!(detokenize(&[BYTES + 0x2a, 33]).as_deref(), Ok(" 02a!"));
        assert_eq!(detokenize(&[VOCABULARY]), Err(VOCABULARY));
    }

    #[test]
    fn words_differ_by_prompt_seed_and_position() {
        let text = |prompt: &str, own| {
            let seed = seed([prompt.as_bytes()], own);
            (0..50).map(|position| draw(seed, position)).collect::<Vec<_>>()
        };
        assert_eq!(text("a", 1), text("a", 1));
        assert_ne!(text("a", 1), text("b", 1));
        assert_ne!(text("a", 1), text("a", 2));
        assert!(text("a", 1).windows(2).any(|pair| pair[0] != pair[1]));
        assert!(text("a", 1).iter().all(|token| (BYTES..VOCABULARY).contains(token)));
    }
}
