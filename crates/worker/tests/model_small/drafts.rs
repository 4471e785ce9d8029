//! A small model that drafts tokens for another one: fewer steps, the same tokens.

use std::sync::Arc;

use protocol::message::{StreamEventKind, Usage};
use worker::{
    engine::{DraftModel, DraftSize, EngineStats},
    model::StepInput,
    schedule::Limits,
    speculate::Costs,
};

use super::{
    Loaded, load,
    on::{On, on_every_backend},
    served::{Flaky, LIMITS, Outcome, finished, serve, serve_drafted},
    tiny::{Spec, Tiny},
};

const DRAFTING: Limits = Limits { max_draft_tokens: 4, ..LIMITS };

const PROMPTS: [&[u32]; 3] = [&[1, 2, 3], &[7; 20], &[40, 2, 99, 5, 12]];

/// `loaded` as a draft model, in an engine with these limits, at a cost that does not depend on the machine.
pub(crate) fn draft_model(
    loaded: Loaded,
    limits: Limits,
    stats: &Arc<EngineStats>,
    fails: impl Fn(&StepInput<'_>) -> bool + 'static,
) -> DraftModel<Flaky> {
    let size = DraftSize {
        kv_tokens: loaded.model.kv_tokens(),
        context_length: loaded.model.context_length() as usize,
        vocab_size: loaded.model.vocab_size() as usize,
    };
    DraftModel::new(Flaky::new(loaded, Arc::clone(stats), fails), size, limits, Costs::fixed(0.05))
}

/// Tokens that were guessed in all streams, and how many of them were right.
pub(crate) fn guesses(outcome: &Outcome) -> (u32, u32) {
    let usage = |end: &Option<StreamEventKind>| match end {
        Some(StreamEventKind::Finished { usage, .. }) => *usage,
        _ => Usage::default(),
    };
    outcome.values().map(|(_, end)| usage(end)).fold((0, 0), |(drafted, accepted), usage| {
        (drafted + usage.drafted_tokens, accepted + usage.accepted_tokens)
    })
}

/// The seed of the model that is served.
const SERVED: u64 = 21;

fn tokens_are_those_without_drafts(on: On) {
    let (result, plain) = serve(on, LIMITS, &PROMPTS, |_| false);
    result.unwrap();
    assert!(plain.values().all(finished));
    let tokens = |outcome: &Outcome| outcome.values().map(|(tokens, _)| tokens.clone()).collect::<Vec<_>>();
    for seed in [SERVED, SERVED + 1] {
        let drafted =
            serve_drafted(on, DRAFTING, &PROMPTS, load(&Tiny::new(on.spec(Spec::default()), seed), on));
        let (guessed, right) = guesses(&drafted);
        if !on.is_exact() {
            assert_eq!(guessed, 0, "outputs could differ");
            continue;
        }
        assert_eq!(tokens(&drafted), tokens(&plain));
        assert!(guessed > 0 && (seed != SERVED || (right == guessed && right > 5)), "{right} of {guessed}");
    }
}

on_every_backend![tokens_are_those_without_drafts];
