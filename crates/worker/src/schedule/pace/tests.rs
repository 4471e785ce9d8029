#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// A machine: seconds of a step, of a decode, of a prompt's token, and of that per token before it.
#[derive(Clone, Copy, Debug)]
struct Machine {
    step: f64,
    decode: f64,
    token: f64,
    context: f64,
}

impl Machine {
    fn took(&self, load: StepLoad) -> f64 {
        self.step
            + self.decode * load.decodes as f64
            + self.token * load.prompt_tokens as f64
            + self.context * load.contexts
    }

    fn decode(&self, pace: &mut Pace, decodes: usize) -> f64 {
        let load = StepLoad { decodes, ..StepLoad::default() };
        pace.learn(load, Duration::from_secs_f64(self.took(load)));
        self.took(load)
    }

    /// Computes a prompt from `start` to `end` beside decodes; what each step took.
    fn prompt(&self, pace: &mut Pace, decodes: usize, start: usize, end: usize) -> Vec<f64> {
        let (mut computed, mut steps) = (start, Vec::new());
        while computed < end {
            if pace.must_look(decodes) {
                steps.push(self.decode(pace, decodes));
                continue;
            }
            let tokens =
                pace.tokens(pace.seconds_for_prompts(decodes, 1.0).unwrap(), computed).min(end - computed);
            let contexts = tokens as f64 * (computed as f64 + tokens as f64 / 2.0);
            let load = StepLoad { decodes, prompt_tokens: tokens, contexts };
            pace.learn(load, Duration::from_secs_f64(self.took(load)));
            steps.push(self.took(load));
            computed += tokens;
        }
        steps
    }
}

#[test]
fn nothing_bounds_a_step_in_which_nobody_waits() {
    let mut pace = Pace::default();
    pace.learn(StepLoad { decodes: 1, ..StepLoad::default() }, Duration::from_millis(10));
    assert_eq!(pace.seconds_for_prompts(0, 1.0), None);
    assert!((pace.seconds_for_prompts(1, 1.0).unwrap() - 0.020).abs() < 1e-9);
    assert!((pace.seconds_for_prompts(1, 5.0).unwrap() - 0.100).abs() < 1e-9, "most wait for a first token");
}

#[test]
fn a_load_tells_prompts_from_decodes() {
    let id = super::super::SequenceId { arrived: 0, number: 0 };
    let row = |tokens: std::ops::Range<usize>, logits| PlannedRow { id, tokens, logits };
    let load = StepLoad::of(&[row(9..10, 9..10), row(10..20, 20..20), row(0..5, 4..5)]);
    assert_eq!(load, StepLoad { decodes: 2, prompt_tokens: 14, contexts: 150.0 + 8.0 });
}

#[test]
fn one_token_at_the_end_is_not_lost() {
    let id = super::super::SequenceId { arrived: 0, number: 0 };
    let load = StepLoad::of(&[PlannedRow { id, tokens: 7..8, logits: 7..8 }]);
    assert_eq!(load, StepLoad { decodes: 1, prompt_tokens: 0, contexts: 0.0 });
}

/// Prompts may come without a break, so that no step only decodes.
#[test]
fn what_decodes_take_is_learnt_beside_prompts_too() {
    let machine = Machine { step: 0.02, decode: 0.001, token: 0.001, context: 0.0 };
    let mut pace = Pace::default();
    let steps = machine.prompt(&mut pace, 4, 0, 2000);
    let (alone, last) = (0.024, steps[steps.len() - 2]);
    assert!(last > alone * 2.0 && last < alone * 4.0, "{last}");
}

/// What one decode takes says little of 32: else each prompt's token would seem to take what these do, and prompts would
/// hardly get on.
#[test]
fn what_many_decodes_take_is_not_taken_for_the_prompts_time() {
    let machine = Machine { step: 0.004, decode: 0.001, token: 0.001, context: 0.0 };
    let mut pace = Pace::default();
    machine.decode(&mut pace, 1);
    let steps = machine.prompt(&mut pace, 32, 0, 2000);
    assert!(steps.len() < 60, "{} steps", steps.len());
}

proptest! {
    /// Whatever the machine: few steps take longer than they should, and a prompt gets on.
    #[test]
    fn a_long_prompt_does_not_keep_decodes_waiting(
        step in 0.001..0.1f64,
        decode in 0.0001..0.002f64,
        token in 0.00005..0.01f64,
        context in 0.0..1e-6f64,
        decodes in 1..64usize,
        start in 0..20_000usize,
    ) {
        let machine = Machine { step, decode, token, context };
        let mut pace = Pace::default();
        let mut alone = 0.0;
        for _ in 0..20 {
            alone = machine.decode(&mut pace, decodes);
        }
        let steps = machine.prompt(&mut pace, decodes, start, start + 6000);
        let least = (token + context * (start + 6000) as f64) * LEAST_TOKENS as f64;
        let allowed = (alone * STRETCH).max(UNNOTICED).max(alone + least);
        let late = steps.iter().filter(|&&step| step > allowed * 1.2).count();
        prop_assert!(late * 50 <= steps.len() + 50, "{late} of {} steps are late", steps.len());
        // A prompt that was computed elsewhere does not upset what is learnt.
        let far = machine.prompt(&mut pace, decodes, 0, 1000);
        let late = far.iter().filter(|&&step| step > allowed * 1.2).count();
        prop_assert!(late * 20 <= far.len() + 40, "{late} of {} steps are late", far.len());
        // On the whole, half of what could be computed in the time is.
        let total: f64 = steps.iter().sum();
        prop_assert!(total >= 0.5 * allowed.min(steps[steps.len() / 2]) * steps.len() as f64);
    }
}
