//! Steps in which the device chooses tokens, and goes on to the next step while these are read.

use std::time::Instant;

use mlx_rs::{
    Array,
    error::{AsSliceError, Exception},
    ops::{concatenate, indexing::take_axis},
    transforms::{async_eval, eval},
};

use super::{Logits, Model, ModelError, SequenceKv, StepInput, StepRow, state::KvRow, step};
use crate::{backend::StepBefore, sample::Choice};

/// A step to launch.
pub struct LaunchInput<'a, K = SequenceKv, L = Launched> {
    /// Its rows. Each that has a choice needs the logits after its last token alone.
    pub step: StepInput<'a, K>,
    /// Of each row how the token behind it is chosen. `None`: by whoever reads its logits, if it needs any.
    pub choices: Vec<Option<Choice>>,
    /// The step before, if tokens of this one are chosen in it.
    pub before: Option<Before<'a, L>>,
}

/// The step before another one that does not wait for its tokens.
pub struct Before<'a, L = Launched> {
    /// It may still be computed.
    pub step: &'a L,
    /// Of each row of the new step, which has one token: which of the chosen ones that is. `None`: it is known.
    pub chosen: Vec<Option<usize>>,
}

/// A step that a device computes, or has computed. Its tokens belong to their sequences already.
#[derive(Debug)]
pub struct Launched {
    /// uint32 `[choices]`, if there are some.
    chosen: Option<Array>,
    /// float32 `[rows, vocab]` of all rows that need logits, if some have no choice.
    logits: Option<Array>,
    /// What is computed if there is neither.
    hidden: Option<Array>,
    /// States that are computed, too.
    states: Vec<Array>,
    /// Whether it reads keys and values that must not change meanwhile.
    reads_blocks: bool,
}

/// What has come of a step.
#[derive(Debug)]
pub struct Landed {
    /// The chosen tokens, in the order of the rows that have a choice.
    pub chosen: Vec<u32>,
    /// Logits of all rows that need some, those with a choice among them. `None` if each of these has one.
    pub logits: Option<Logits>,
}

impl Model {
    /// Whether steps can be launched: tokens be chosen where the model is computed, and a step begin before those of
    /// the one before are read. On the CPU there would be nothing to gain. Of a model with states, what was launched could not
    /// be taken back.
    pub fn launches(&self) -> bool {
        self.backend.chooses() && !self.has_states()
    }

    /// [`forward`](Self::forward), which also chooses the token behind each row that has a choice. Rows without one, or
    /// for which the list is too short, are for whoever reads the logits.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn forward_choosing(
        &self,
        input: &mut StepInput<'_>,
        choices: &[Option<Choice>],
    ) -> Result<Landed, ModelError> {
        step::check(input, self.vocab_size(), self.context_length())?;
        if input.rows.is_empty() {
            return Ok(Landed { chosen: Vec::new(), logits: None });
        }
        let computed = self.compute(&step::tokens(input), input, choices, StepBefore::Computed)?;
        eval(computed.outputs())?;
        advance(input);
        computed.read()
    }

    /// Begins to compute a step, which appends its tokens to the sequences. Does not wait for it.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward), as far as they are known by now, and that the step before has to be computed
    /// first ([`ModelError::is_too_early`]). Then nothing has changed.
    pub fn launch(&self, input: &mut LaunchInput<'_>) -> Result<Launched, ModelError> {
        let LaunchInput { step, choices, before } = input;
        step::check(step, self.vocab_size(), self.context_length())?;
        let known = step::tokens(step);
        let tokens = before.as_ref().map_or(Ok(known.clone()), |before| before.tokens(&known))?;
        let before = before.as_ref().map_or(StepBefore::Computed, |before| before.step.reads());
        let launched = self.compute(&tokens, step, choices, before)?;
        async_eval(launched.outputs())?;
        advance(step);
        if launched.reads_blocks
            && let Some(last) = launched.outputs().next()
        {
            self.cache.set_reader(last);
        }
        Ok(launched)
    }

    /// Waits for a step.
    ///
    /// # Errors
    /// It has failed: [`abandon`](Self::abandon) it.
    pub fn land(&self, launched: &Launched) -> Result<Landed, ModelError> {
        eval(launched.outputs())?;
        launched.read()
    }

    /// Forgets what the last `steps` steps have computed, which failed or were not waited for. Their sequences have to be
    /// truncated to what they had before.
    pub fn abandon(&self, steps: usize) {
        self.cache.abandon(steps);
    }

    /// A step of `tokens`, uint32 `[tokens]`; lazy. The one `before` may still be computed.
    fn compute(
        &self,
        tokens: &Array,
        input: &mut StepInput<'_>,
        choices: &[Option<Choice>],
        before: StepBefore,
    ) -> Result<Launched, ModelError> {
        let began = Instant::now();
        let wanted = step::wanted(input);
        let adapters = step::adapters(input, |row| row.tokens.len());
        let adapters_of_wanted = step::adapters(input, |row| row.logits.len());
        let rows = input.rows.iter_mut().map(|StepRow { tokens, kv, logits, .. }| KvRow {
            kv,
            new_tokens: tokens.len(),
            samples: logits.start < logits.end,
        });
        let memory = self.cache.begin(rows, before)?;
        let reads_blocks = memory.reads_blocks();
        let hidden = {
            let _step = self.sites.begin(adapters);
            self.architecture.hidden(tokens, &memory)?
        };
        let states = memory.written();
        let launched = if wanted.is_empty() {
            Launched { chosen: None, logits: None, hidden: Some(hidden), states, reads_blocks }
        } else {
            let hidden = if wanted.len() == tokens.size() {
                hidden
            } else {
                take_axis(&hidden, Array::from_slice(&wanted, &[wanted.len() as i32]), 0)?
            };
            let _step = self.sites.begin(adapters_of_wanted);
            Launched { states, reads_blocks, ..self.choose(self.logits(&hidden)?, input, choices)? }
        };
        self.building.set(self.building.get() + began.elapsed());
        Ok(launched)
    }

    /// `logits` are those of all rows that need some.
    fn choose(
        &self,
        logits: Array,
        input: &StepInput<'_>,
        choices: &[Option<Choice>],
    ) -> Result<Launched, Exception> {
        let (mut places, mut made, mut next) = (Vec::new(), Vec::new(), 0_u32);
        for (row, choice) in input.rows.iter().zip(choices) {
            if let Some(choice) = choice.filter(|_| !row.logits.is_empty()) {
                places.push(next);
                made.push(choice);
            }
            next += row.logits.len() as u32;
        }
        let of_all = places.len() == logits.dim(0).unsigned_abs() as usize;
        let chosen = if places.is_empty() {
            None
        } else if of_all {
            Some(self.backend.choose(&logits, &made)?)
        } else {
            let places = Array::from_slice(&places, &[places.len() as i32]);
            Some(self.backend.choose(&take_axis(&logits, places, 0)?, &made)?)
        };
        let logits = (!of_all).then_some(logits);
        Ok(Launched { chosen, logits, hidden: None, states: Vec::new(), reads_blocks: false })
    }
}

impl Before<'_> {
    /// uint32 `[tokens]`: those that are `known`, and in their places those that the step before chooses.
    fn tokens(&self, known: &Array) -> Result<Array, Exception> {
        let Some(chosen) = &self.step.chosen else { return Ok(known.clone()) };
        if self.chosen.len() != known.size() {
            return Err(Exception::custom("a row behind another step has more than one token"));
        }
        let before = chosen.dim(0).unsigned_abs() as usize;
        let sources = self.chosen.iter().enumerate();
        let sources: Vec<u32> = sources.map(|(row, source)| source.unwrap_or(before + row) as u32).collect();
        if sources.len() == before && sources.iter().copied().eq(0..before as u32) {
            return Ok(chosen.clone());
        }
        let sources = Array::from_slice(&sources, &[sources.len() as i32]);
        take_axis(concatenate(&[chosen, known], 0)?, sources, 0)
    }
}

impl Launched {
    fn reads(&self) -> StepBefore {
        if self.reads_blocks { StepBefore::ReadsBlocks } else { StepBefore::ReadsCopies }
    }

    fn outputs(&self) -> impl Iterator<Item = &Array> {
        self.chosen.iter().chain(&self.logits).chain(&self.hidden).chain(&self.states)
    }

    /// It has been evaluated.
    fn read(&self) -> Result<Landed, ModelError> {
        let chosen = match &self.chosen {
            Some(chosen) => chosen.try_as_slice::<u32>().map_err(unreadable)?.to_vec(),
            None => Vec::new(),
        };
        Ok(Landed { chosen, logits: self.logits.clone().map(Logits::new).transpose()? })
    }
}

/// The step's tokens are the sequences'.
fn advance(input: &mut StepInput<'_>) {
    for row in &mut input.rows {
        row.kv.advance(row.tokens.len());
    }
}

fn unreadable(error: AsSliceError) -> ModelError {
    match error {
        AsSliceError::Exception(error) => error,
        other => Exception::custom(other.to_string()),
    }
    .into()
}
