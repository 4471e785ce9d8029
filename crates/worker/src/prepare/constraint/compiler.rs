//! What all of a model's constraints share.

use std::fmt;

use llguidance::{
    Matcher, ParserFactory, api::ParserLimits, earley::SlicedBiasComputer, toktrie::InferenceCapabilities,
};
use protocol::message::ConstraintKind;

use super::{
    grammar,
    vocabulary::{Vocabulary, walkable},
};
use crate::constraint::{Constraint, MaskThread, reason};

/// Makes constraints for a model's tokens.
pub(super) struct Compiler {
    factory: ParserFactory,
    masks: MaskThread,
}

impl Compiler {
    pub(super) fn new(vocabulary: Vocabulary<'_>) -> anyhow::Result<Self> {
        let tokens = walkable(vocabulary)?;
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &slices)?;
        *factory.limits_mut() = limits();
        factory.quiet();
        Ok(Self { factory, masks: MaskThread::start()? })
    }

    /// A constraint under which at least one token can be generated; or why there is none.
    pub(super) fn compile(&self, kind: &ConstraintKind, ignore_eos: bool) -> Result<Constraint, String> {
        let parser = grammar::of(kind).and_then(|grammar| self.factory.create_parser(grammar));
        let parser = parser.map_err(|error| grammar::explain(kind, reason(&error)))?;
        let mut constraint = Constraint::new(Matcher::new(Ok(parser)), self.masks.clone(), ignore_eos);
        // What no output can follow, or is too complex from the start, shows here.
        constraint.mask().map_err(|error| error.to_string())?;
        Ok(constraint)
    }
}

impl fmt::Debug for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiler").finish_non_exhaustive()
    }
}

/// Bounds of what one constraint may take: the library's, but for these.
fn limits() -> ParserLimits {
    ParserLimits {
        // One or two KiB each, kept until the output ends. Large schemas need some thousands.
        max_lexer_states: 32 << 10,
        // Errors are for clients, who know what they sent.
        verbose_errors: false,
        ..ParserLimits::default()
    }
}
