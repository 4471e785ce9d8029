//! What unit tests share: a model of which a test says what it does, a place that keeps reports, and the gateway's end
//! of a link.

#![allow(clippy::unwrap_used)]

mod collected;
pub(crate) mod gateway;

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub(crate) use collected::{Collected, Stream};
use mlx_rs::{Array, error::Exception};

use crate::{
    cache::{BLOCK_TOKENS, Fork},
    engine::Forward,
    model::{Landed, LaunchInput, Logits, ModelError, Progress, StepInput, StepRow},
    sample::Choice,
};

/// Logits of every token, as a function of all tokens before it.
pub(crate) type Script = dyn Fn(&[u32]) -> Vec<f32> + Send;

/// Called with the tokens of each row before a step; an error fails the step.
pub(crate) type Hook = dyn FnMut(&[Vec<u32>]) -> Result<(), ModelError> + Send;

/// A model without weights. What it keeps of a sequence is the tokens, so its logits are wrong as soon as the engine
/// makes a mistake with a sequence's keys and values.
pub(crate) struct FakeModel {
    vocab: u32,
    script: Box<Script>,
    hook: Mutex<Box<Hook>>,
    /// Tokens of the unit in which its sequences share memory.
    shared_block: usize,
    /// Whether it counts what it does. It does nothing that would be counted.
    counts: bool,
    threads: usize,
    launches: Option<Failing>,
    /// Of each step the number of tokens of each row.
    steps: Arc<Mutex<Vec<Vec<usize>>>>,
}

/// When a step that was launched fails, if it does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Failing {
    AtOnce,
    WhenRead,
}

/// A step of [`FakeModel`]: the tokens it has chosen, or why it fails.
pub(crate) type FakeStep = Result<Vec<u32>, ModelError>;

/// What [`FakeModel`] keeps of a sequence.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeKv {
    tokens: Vec<u32>,
}

impl FakeModel {
    pub(crate) fn new(vocab: u32, script: impl Fn(&[u32]) -> Vec<f32> + Send + 'static) -> Self {
        Self {
            vocab,
            script: Box::new(script),
            hook: Mutex::new(Box::new(|_| Ok(()))),
            shared_block: BLOCK_TOKENS,
            counts: false,
            threads: 1,
            launches: None,
            steps: Arc::default(),
        }
    }

    /// One whose next token is a function of those before it.
    pub(crate) fn next(vocab: u32, next: impl Fn(&[u32]) -> u32 + Send + 'static) -> Self {
        Self::new(vocab, move |tokens| {
            let next = next(tokens);
            (0..vocab).map(|token| if token == next { 1.0 } else { 0.0 }).collect()
        })
    }

    /// One with logits that look random and depend on every token before them, and on the order of these.
    pub(crate) fn random(vocab: u32) -> Self {
        Self::random_after(vocab, usize::MAX)
    }

    /// The same, but they depend on the last `memory` tokens alone: so what follows repeats itself.
    pub(crate) fn random_after(vocab: u32, memory: usize) -> Self {
        Self::new(vocab, move |tokens| {
            let tokens = &tokens[tokens.len().saturating_sub(memory)..];
            let mix = |hash: u64, token: u32| {
                let hash = (hash ^ u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                hash ^ (hash >> 29)
            };
            let all = tokens.iter().fold(1, |hash, &token| mix(hash, token));
            (0..vocab).map(|token| (mix(all, token) >> 40) as f32 / (1_u64 << 22) as f32).collect()
        })
    }

    pub(crate) fn hooked(
        mut self,
        hook: impl FnMut(&[Vec<u32>]) -> Result<(), ModelError> + Send + 'static,
    ) -> Self {
        self.hook = Mutex::new(Box::new(hook));
        self
    }

    pub(crate) fn sharing(mut self, block: usize) -> Self {
        self.shared_block = block;
        self
    }

    pub(crate) fn counting(mut self) -> Self {
        self.counts = true;
        self
    }

    pub(crate) fn on_threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// One that computes steps while nobody waits for it.
    pub(crate) fn launching(mut self, failing: Option<Failing>) -> Self {
        self.launches = failing;
        self
    }

    /// The same, whose best token is another one after every sequence of tokens that `wrong` takes.
    pub(crate) fn wrong_where(self, wrong: impl Fn(&[u32]) -> bool + Send + 'static) -> Self {
        let script = self.script;
        let script = Box::new(move |tokens: &[u32]| {
            let mut logits = script(tokens);
            if wrong(tokens) {
                logits.rotate_left(1);
            }
            logits
        });
        Self { script, ..self }
    }

    pub(crate) fn vocab(&self) -> u32 {
        self.vocab
    }

    /// Logits after `tokens`.
    pub(crate) fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        (self.script)(tokens)
    }

    pub(crate) fn steps(&self) -> Arc<Mutex<Vec<Vec<usize>>>> {
        Arc::clone(&self.steps)
    }

    /// Logits after each token that needs them.
    fn compute(&self, row: &mut StepRow<'_, FakeKv>) -> Vec<Vec<f32>> {
        let mut logits = Vec::new();
        for (index, &token) in row.tokens.iter().enumerate() {
            row.kv.tokens.push(token);
            if row.logits.contains(&index) {
                logits.push((self.script)(&row.kv.tokens));
            }
        }
        logits
    }

    fn check(&self, input: &StepInput<'_, FakeKv>) -> Result<(), ModelError> {
        for (row, step_row) in input.rows.iter().enumerate() {
            assert!(!step_row.tokens.is_empty());
            if let Some(&token) = step_row.tokens.iter().find(|&&token| token >= self.vocab) {
                return Err(ModelError::TokenOutOfRange { row, token, vocab_size: self.vocab });
            }
        }
        Ok(())
    }
}

impl Fork for FakeKv {
    fn fork(&self, len: usize) -> Self {
        Self { tokens: self.tokens[..len].to_vec() }
    }
}

impl Forward for FakeModel {
    type Kv = FakeKv;
    type Launched = FakeStep;

    fn new_kv(&self) -> FakeKv {
        FakeKv::default()
    }

    fn shared_block(&self) -> usize {
        self.shared_block
    }

    fn export(&self, kv: &FakeKv, tokens: Range<usize>) -> Result<Vec<u8>, ModelError> {
        Ok(kv.tokens[tokens].iter().flat_map(|token| token.to_le_bytes()).collect())
    }

    fn import(&self, kv: &mut FakeKv, tokens: usize, bytes: &[u8]) -> Result<(), ModelError> {
        let new = bytes
            .chunks_exact(4)
            .map(|bytes| bytes.iter().rev().fold(0, |n, &byte| n << 8 | u32::from(byte)));
        kv.tokens.extend(new.take(tokens));
        Ok(())
    }

    fn checks_drafts(&self) -> bool {
        true
    }

    fn truncate(&self, kv: &mut FakeKv, len: usize) {
        kv.tokens.truncate(len);
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn progress(&self) -> Option<Progress> {
        self.counts.then_some(|| 0)
    }

    fn forward(&self, input: &mut StepInput<'_, FakeKv>) -> Result<Option<Logits>, ModelError> {
        self.check(input)?;
        lock(&self.steps).push(input.rows.iter().map(|row| row.tokens.len()).collect());
        let tokens: Vec<Vec<u32>> = input.rows.iter().map(|row| row.tokens.to_vec()).collect();
        lock(&self.hook)(&tokens)?;
        let logits: Vec<f32> = input.rows.iter_mut().flat_map(|row| self.compute(row)).flatten().collect();
        let rows = logits.len() as i32 / self.vocab as i32;
        let array = (rows > 0).then(|| Array::from_slice(&logits, &[rows, self.vocab as i32]));
        Ok(array.map(Logits::new).transpose()?)
    }

    fn forward_choosing(
        &self,
        input: &mut StepInput<'_, FakeKv>,
        choices: &[Option<Choice>],
    ) -> Result<Landed, ModelError> {
        let logits = self.forward(input)?;
        let (mut next, mut chosen) = (0, Vec::new());
        for (row, choice) in input.rows.iter().zip(choices) {
            if let (Some(choice), Some(logits)) = (choice, &logits) {
                chosen.push(choice.on_host(logits.row(next)));
            }
            next += row.logits.len();
        }
        Ok(Landed { chosen, logits })
    }

    fn launches(&self) -> bool {
        self.launches.is_some()
    }

    fn launch(&self, input: &mut LaunchInput<'_, FakeKv, FakeStep>) -> Result<FakeStep, ModelError> {
        let LaunchInput { step, choices, before } = input;
        self.check(step)?;
        let chosen = |row: usize| before.as_ref().and_then(|before| Some((before.step, before.chosen[row]?)));
        let token = |row: usize, known: u32| match chosen(row) {
            None => known,
            // What a step gives that has failed is anything.
            Some((tokens, index)) => tokens.as_ref().map_or(0, |tokens| tokens[index]),
        };
        let tokens: Vec<Vec<u32>> =
            step.rows.iter().enumerate().map(|(row, it)| vec![token(row, it.tokens[0])]).collect();
        lock(&self.steps).push(vec![1; tokens.len()]);
        let failed = lock(&self.hook)(&tokens).err();
        if self.launches == Some(Failing::AtOnce)
            && let Some(error) = failed
        {
            return Err(error);
        }
        let rows = step.rows.iter_mut().zip(&tokens).zip(choices);
        let computed = rows.map(|((row, tokens), choice)| {
            let logits = self.compute(&mut StepRow { tokens, kv: row.kv, logits: 0..1, adapter: None });
            choice.unwrap().on_host(&logits[0])
        });
        let computed = computed.collect();
        Ok(failed.map_or(Ok(computed), Err))
    }

    fn land(&self, launched: &FakeStep) -> Result<Landed, ModelError> {
        match launched {
            Ok(chosen) => Ok(Landed { chosen: chosen.clone(), logits: None }),
            Err(_) => Err(injected()),
        }
    }

    fn abandon(&self, _steps: usize) {}
}

/// An error that names no row.
pub(crate) fn injected() -> ModelError {
    ModelError::Mlx(Exception::custom("injected"))
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
