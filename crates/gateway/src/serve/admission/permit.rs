//! The right to a stream.

use std::{fmt, sync::Arc, time::Instant};

use super::{metrics::Counted, rates::Charge};
use crate::serve::gate::Started;

/// Where a permit comes from.
pub(super) trait Giver: fmt::Debug + Send + Sync {
    /// A stream of the model runs, as long as this lives.
    fn count(&self, model: &Arc<str>) -> Counted;

    /// A stream had its first token, for which `computed_tokens` of its prompt were computed.
    fn first_token(&self, model: &str, started: Started, computed_tokens: u32);

    /// A stream ended, and had its first token or not.
    fn release(self: Arc<Self>, model: &Arc<str>, had_token: bool);
}

/// The right to one stream. Held by the response's body; dropping it lets the next one in.
#[derive(Debug)]
pub struct Permit {
    giver: Arc<dyn Giver>,
    model: Arc<str>,
    started: Started,
    deadline: Option<Instant>,
    prompt_tokens: u32,
    /// Those that its worker had in its cache.
    cached_tokens: u32,
    had_token: bool,
    /// It is given back to nobody.
    disarmed: bool,
    /// What the stream may use of its caller's rates.
    charge: Option<Box<Charge>>,
    /// Those of the other streams of the same request.
    others: Vec<Permit>,
    _running: Counted,
}

impl Permit {
    /// One with those of `count - 1` other streams.
    pub(super) fn group(giver: &Arc<dyn Giver>, model: &Arc<str>, started: Started, count: usize) -> Self {
        let others = (1..count).map(|_| Self::new(giver, model, started)).collect();
        let mut permit = Self::new(giver, model, started);
        permit.others = others;
        permit
    }

    fn new(giver: &Arc<dyn Giver>, model: &Arc<str>, started: Started) -> Self {
        Self {
            giver: Arc::clone(giver),
            model: Arc::clone(model),
            started,
            deadline: None,
            prompt_tokens: 0,
            cached_tokens: 0,
            had_token: false,
            disarmed: false,
            charge: None,
            others: Vec::new(),
            _running: giver.count(model),
        }
    }

    /// It reached who waited for it, and so did those of the other streams. Each has its charge.
    pub(super) fn admit(&mut self, charge: Charge, of_others: Vec<Charge>, deadline: Option<Instant>) {
        for (other, charge) in self.others.iter_mut().zip(of_others) {
            other.admit(charge, Vec::new(), deadline);
        }
        let mut charge = Box::new(charge);
        charge.begin();
        self.charge = Some(charge);
        self.deadline = deadline;
    }

    /// Those of the other streams of the same request.
    pub(in crate::serve) fn take_others(&mut self) -> Vec<Self> {
        std::mem::take(&mut self.others)
    }

    /// It reached nobody; the caller gives the places back.
    pub(super) fn disarm(mut self) {
        self.take_others().into_iter().for_each(Self::disarm);
        self.disarmed = true;
    }

    /// When the stream has to be done.
    pub(in crate::serve) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The prompt was accepted. What is counted here is compared with the caller's rates.
    pub(in crate::serve) fn count_prompt(&mut self, tokens: u32) {
        self.prompt_tokens = tokens;
        self.count(tokens.into());
    }

    /// So many tokens of the prompt had been computed before; said before the first one of the answer is counted.
    pub(in crate::serve) fn count_cached(&mut self, tokens: u32) {
        self.cached_tokens = tokens.min(self.prompt_tokens);
    }

    /// So many tokens of the answer came. The first ones say how busy the workers are.
    pub(in crate::serve) fn count_answer(&mut self, tokens: usize) {
        if tokens == 0 {
            return;
        }
        if !std::mem::replace(&mut self.had_token, true) {
            self.giver.first_token(&self.model, self.started, self.prompt_tokens - self.cached_tokens);
        }
        self.count(tokens as u64);
    }

    fn count(&mut self, tokens: u64) {
        if let Some(charge) = &mut self.charge {
            charge.count(tokens);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.disarmed {
            Arc::clone(&self.giver).release(&self.model, self.had_token);
        }
    }
}
