//! What the engine's thread spends its time on.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use protocol::message;

/// What the thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Messages, controls, guesses, the plan.
    Schedule,
    /// From the plan to the operations that compute it.
    Build,
    /// Computing it.
    Evaluate,
    /// From logits to tokens.
    Sample,
    /// From tokens to a report.
    Emit,
    /// Waiting for a message.
    Idle,
}

/// How the time divides. One thread measures, with one look at the clock a stage, and any thread may read.
#[derive(Debug, Default)]
pub(super) struct StepTime(Mutex<Measured>);

#[derive(Debug, Default)]
struct Measured {
    /// In the order of [`Stage`].
    spent: [Duration; STAGES],
    /// Up to here it is known; nothing is measured before the first call.
    until: Option<Instant>,
    /// What comes behind that is idle: it may take long, and is to be seen meanwhile.
    resting: bool,
}

const STAGES: usize = Stage::Idle as usize + 1;

impl StepTime {
    /// All that has passed since the last call was spent on this. The first call begins.
    pub(super) fn spend(&self, stage: Stage) {
        self.lock().spend(stage, Instant::now());
    }

    /// All that has passed since the last call was spent on the model, so much of it on building what it computes.
    pub(super) fn spend_on_model(&self, building: Duration) {
        self.lock().spend_on_model(building, Instant::now());
    }

    /// The same as [`spend`](Self::spend), and what comes until the next call is idle.
    pub(super) fn rest(&self, stage: Stage) {
        let mut measured = self.lock();
        measured.spend(stage, Instant::now());
        measured.resting = true;
    }

    /// The sums now.
    pub(super) fn now(&self) -> message::StepTime {
        self.lock().sums(Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Measured> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Measured {
    fn spend(&mut self, stage: Stage, now: Instant) {
        let passed = self.lap(now);
        self.spent[stage as usize] += passed;
    }

    fn spend_on_model(&mut self, building: Duration, now: Instant) {
        let all = self.lap(now);
        let building = building.min(all);
        self.spent[Stage::Build as usize] += building;
        self.spent[Stage::Evaluate as usize] += all - building;
    }

    /// What has passed since the last call.
    fn lap(&mut self, now: Instant) -> Duration {
        self.resting = false;
        self.until.replace(now).map_or(Duration::ZERO, |until| now.saturating_duration_since(until))
    }

    fn sums(&self, now: Instant) -> message::StepTime {
        let resting = self.until.filter(|_| self.resting);
        let resting = resting.map_or(Duration::ZERO, |until| now.saturating_duration_since(until));
        let micros = |duration: Duration| duration.as_micros().try_into().unwrap_or(u64::MAX);
        let [schedule, build, evaluate, sample, emit, idle] = self.spent;
        message::StepTime {
            schedule_micros: micros(schedule),
            build_micros: micros(build),
            evaluate_micros: micros(evaluate),
            sample_micros: micros(sample),
            emit_micros: micros(emit),
            idle_micros: micros(idle + resting),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Stage; STAGES] =
        [Stage::Schedule, Stage::Build, Stage::Evaluate, Stage::Sample, Stage::Emit, Stage::Idle];

    fn total(time: message::StepTime) -> u64 {
        let message::StepTime {
            schedule_micros,
            build_micros,
            evaluate_micros,
            sample_micros,
            emit_micros,
            idle_micros,
        } = time;
        schedule_micros + build_micros + evaluate_micros + sample_micros + emit_micros + idle_micros
    }

    #[test]
    fn what_passes_between_two_calls_is_the_second_ones() {
        let start = Instant::now();
        let at = |micros| start + Duration::from_micros(micros);
        let mut measured = Measured::default();
        measured.spend(Stage::Idle, at(0));
        measured.spend(Stage::Schedule, at(10));
        measured.spend_on_model(Duration::from_micros(3), at(110));
        measured.spend(Stage::Sample, at(125));
        measured.spend(Stage::Emit, at(130));
        let expected = message::StepTime {
            schedule_micros: 10,
            build_micros: 3,
            evaluate_micros: 97,
            sample_micros: 15,
            emit_micros: 5,
            idle_micros: 0,
        };
        assert_eq!(measured.sums(at(999)), expected, "what runs is not known yet");
        measured.resting = true;
        assert_eq!(measured.sums(at(230)).idle_micros, 100, "but waiting is");
        measured.spend(Stage::Idle, at(330));
        assert_eq!(measured.sums(at(999)), message::StepTime { idle_micros: 200, ..expected });
    }

    #[test]
    fn a_model_can_t_have_built_for_longer_than_it_took() {
        let start = Instant::now();
        let mut measured = Measured::default();
        measured.spend(Stage::Idle, start);
        measured.spend_on_model(Duration::from_secs(9), start + Duration::from_micros(5));
        let expected = message::StepTime { build_micros: 5, ..message::StepTime::default() };
        assert_eq!(measured.sums(start), expected);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_shrinks(laps in prop::collection::vec((0..STAGES, 0..1000u64, any::<bool>()), 1..40)) {
            let mut now = Instant::now();
            let (start, mut measured) = (now, Measured::default());
            measured.spend(Stage::Idle, now);
            let mut last = 0;
            for (stage, micros, rest) in laps {
                now += Duration::from_micros(micros);
                measured.spend(ALL[stage], now);
                measured.resting = rest;
                let sum = total(measured.sums(now));
                prop_assert!(sum >= last);
                prop_assert_eq!(u128::from(sum), (now - start).as_micros());
                last = sum;
            }
        }
    }
}
