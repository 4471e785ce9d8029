//! What all of a model's constraints share.

use std::fmt;

use llguidance::{
    Matcher, ParserFactory, api::ParserLimits, earley::SlicedBiasComputer, toktrie::InferenceCapabilities,
};

use super::{
    grammar::{self, Demand},
    vocabulary::{Vocabulary, walkable},
};
use crate::constraint::{Constraint, MaskThread, reason};

/// Makes constraints for a model's tokens.
pub(super) struct Compiler {
    factory: ParserFactory,
    masks: MaskThread,
}

/// What all outputs with the same constraint begin with.
pub(super) struct Prototype {
    /// Its first mask is known to it.
    matcher: Matcher,
    lexer_bytes: usize,
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

    /// What outputs begin with, of which there is at least one token; or why there are none.
    pub(super) fn compile(&self, demand: &Demand) -> Result<Prototype, String> {
        let parser = grammar::of(demand).and_then(|grammar| self.factory.create_parser(grammar));
        let parser = parser.map_err(|error| grammar::explain(&demand.kind, reason(&error)))?;
        // This clone has the same lexer, which the matcher hides.
        let lexer = parser.parser.clone();
        let mut matcher = Matcher::new(Ok(parser));
        // What no output can follow, or is too complex from the start, shows here.
        matcher.compute_mask().map_err(|error| reason(&error))?;
        Ok(Prototype { matcher, lexer_bytes: lexer.lexer_stats().num_bytes })
    }

    /// A constraint at the beginning of an output. What it learns from then on is its own.
    pub(super) fn begin(&self, prototype: &Prototype, ignore_eos: bool) -> Constraint {
        Constraint::new(prototype.matcher.deep_clone(), self.masks.clone(), ignore_eos)
    }
}

impl Prototype {
    /// About how much memory it takes, where what was asked for had so many `bytes`.
    pub(super) fn bytes(&self, bytes: usize) -> usize {
        /// Of its grammar, for each byte of what was asked for.
        const GRAMMAR: usize = 64;
        self.lexer_bytes.saturating_add(bytes.saturating_mul(GRAMMAR))
    }
}

impl fmt::Debug for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiler").finish_non_exhaustive()
    }
}

impl fmt::Debug for Prototype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prototype").field("lexer_bytes", &self.lexer_bytes).finish_non_exhaustive()
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
