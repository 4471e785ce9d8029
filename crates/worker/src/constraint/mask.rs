//! A set of tokens.

use llguidance::toktrie::SimpleVob;

/// The tokens that may follow at some place, a bit for each of the vocabulary.
#[derive(Clone, Debug)]
pub struct TokenMask(SimpleVob);

impl TokenMask {
    pub(super) fn new(tokens: SimpleVob) -> Self {
        Self(tokens)
    }

    /// Whether `token` may follow.
    pub fn allows(&self, token: u32) -> bool {
        (token as usize) < self.0.len() && self.0.is_allowed(token)
    }

    /// Takes `tokens` out, if any other token is left then.
    pub(super) fn remove_unless_last(&mut self, tokens: &[u32]) {
        let mut others = self.0.clone();
        for &token in tokens.iter().filter(|&&token| (token as usize) < self.0.len()) {
            others.disallow_token(token);
        }
        if !others.is_zero() {
            self.0 = others;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(tokens: &[u32]) -> TokenMask {
        let mut set = SimpleVob::alloc(40);
        tokens.iter().for_each(|&token| set.allow_token(token));
        TokenMask::new(set)
    }

    fn allowed(mask: &TokenMask) -> Vec<u32> {
        (0..100).filter(|&token| mask.allows(token)).collect()
    }

    #[test]
    fn tokens_are_taken_out_unless_they_are_all_that_is_left() {
        let mut some = mask(&[0, 31, 32, 39]);
        assert_eq!(allowed(&some), [0, 31, 32, 39]);
        some.remove_unless_last(&[32, 7, u32::MAX]);
        assert_eq!(allowed(&some), [0, 31, 39]);
        some.remove_unless_last(&[39, 31, 0]);
        assert_eq!(allowed(&some), [0, 31, 39]);
    }
}
