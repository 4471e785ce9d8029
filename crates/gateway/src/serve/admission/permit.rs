//! The right to one stream.

use std::{sync::Arc, time::Instant};

use super::{Inner, rates::Charge};
use crate::serve::gate::Started;

/// The right to one stream. Held by the response's body; dropping it lets the next one in.
#[derive(Debug)]
pub struct Permit {
    inner: Arc<Inner>,
    model: Arc<str>,
    started: Started,
    deadline: Option<Instant>,
    prompt_tokens: u32,
    had_token: bool,
    /// It is given back to nobody.
    disarmed: bool,
    /// What the stream may use of its caller's rates.
    charge: Option<Box<Charge>>,
}

impl Permit {
    pub(super) fn new(inner: &Arc<Inner>, model: &Arc<str>, started: Started) -> Self {
        Self {
            inner: Arc::clone(inner),
            model: Arc::clone(model),
            started,
            deadline: None,
            prompt_tokens: 0,
            had_token: false,
            disarmed: false,
            charge: None,
        }
    }

    /// It reached who waited for it.
    pub(super) fn admit(&mut self, mut charge: Charge, deadline: Option<Instant>) {
        charge.begin();
        self.charge = Some(Box::new(charge));
        self.deadline = deadline;
    }

    /// It reached nobody; the caller gives the place back.
    pub(super) fn disarm(mut self) {
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

    /// So many tokens of the answer came. The first ones say how busy the workers are.
    pub(in crate::serve) fn count_answer(&mut self, tokens: usize) {
        if tokens == 0 {
            return;
        }
        if !std::mem::replace(&mut self.had_token, true) {
            self.inner.first_token(&self.model, self.started, self.prompt_tokens);
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
            self.inner.release(&self.model, self.had_token);
        }
    }
}
