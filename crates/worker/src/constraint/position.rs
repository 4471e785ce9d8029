//! How far an output has come.

use llguidance::{Matcher, api::StopReason};

use super::{ConstraintError, TokenMask, reason};

/// A place in an output, and the tokens that may follow.
pub(super) struct Position {
    matcher: Matcher,
    /// Once it is known.
    mask: Option<TokenMask>,
    ignore_eos: bool,
}

impl Position {
    pub(super) fn new(matcher: Matcher, ignore_eos: bool) -> Self {
        Self { matcher, mask: None, ignore_eos }
    }

    pub(super) fn knows_mask(&self) -> bool {
        self.mask.is_some()
    }

    /// The tokens that may follow, of which there is at least one.
    pub(super) fn mask(&mut self) -> Result<&TokenMask, ConstraintError> {
        let mask = match self.mask.take() {
            Some(mask) => mask,
            None => self.compute()?,
        };
        Ok(self.mask.insert(mask))
    }

    /// Goes on behind `token`. Whether nothing may follow.
    pub(super) fn accept(&mut self, token: u32) -> Result<bool, ConstraintError> {
        self.mask = None;
        let ends = self.is_eos(token)?;
        self.matcher.consume_token(token).map_err(library)?;
        if self.matcher.is_stopped() {
            return match self.matcher.stop_reason() {
                StopReason::NoExtension | StopReason::EndOfSentence => Ok(true),
                other => Err(ConstraintError::Library(other.to_string())),
            };
        }
        // A grammar can name such a token in its middle. It ends the output all the same.
        if ends && !self.matcher.is_accepting().map_err(library)? {
            return Err(ConstraintError::TooEarly(token));
        }
        Ok(ends)
    }

    fn compute(&mut self) -> Result<TokenMask, ConstraintError> {
        let mut mask = TokenMask::new(self.matcher.compute_mask().map_err(library)?);
        if self.ignore_eos {
            let environment = self.matcher.tok_env().map_err(library)?;
            mask.remove_unless_last(environment.tok_trie().eos_tokens());
        }
        Ok(mask)
    }

    fn is_eos(&self, token: u32) -> Result<bool, ConstraintError> {
        let environment = self.matcher.tok_env().map_err(library)?;
        Ok(environment.tok_trie().eos_tokens().contains(&token))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` calls")]
fn library(error: anyhow::Error) -> ConstraintError {
    ConstraintError::Library(reason(&error))
}
