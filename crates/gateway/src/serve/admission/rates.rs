//! Callers' rates, as requests take from them.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::rejection::Rejection;
use crate::{
    config::RateLimits,
    serve::{caller::Caller, rate_limit::RateTable},
};

/// The rates of all callers. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(super) struct Rates(Arc<Mutex<RateTable>>);

/// What a request took of its caller's rates. What it has not used is given back on drop.
#[derive(Debug)]
pub(super) struct Charge {
    rates: Rates,
    caller: Caller,
    taken: u64,
    /// `None` until the request is admitted.
    used: Option<u64>,
}

impl Rates {
    pub(super) fn configure(&self, limits: RateLimits) {
        self.table().set_limits(limits);
    }

    /// Takes what a request is expected to use.
    pub(super) fn take(&self, caller: &Caller, tokens: u64, now: Instant) -> Result<Charge, Rejection> {
        self.table().take(caller, tokens, now).map_err(Rejection::RateLimited)?;
        Ok(Charge { rates: self.clone(), caller: caller.clone(), taken: tokens, used: None })
    }

    fn table(&self) -> MutexGuard<'_, RateTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Rates {
    /// Without limits.
    fn default() -> Self {
        Self(Arc::new(Mutex::new(RateTable::new(RateLimits::default()))))
    }
}

impl Charge {
    /// The request is admitted.
    pub(super) fn begin(&mut self) {
        self.used = Some(0);
    }

    /// So many tokens were used.
    pub(super) fn count(&mut self, tokens: u64) {
        if let Some(used) = &mut self.used {
            *used += tokens;
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        // A request that was turned away costs nothing.
        let requests = if self.used.is_none() { 1.0 } else { 0.0 };
        let tokens = self.taken as f64 - self.used.unwrap_or_default() as f64;
        self.rates.table().settle(&self.caller, requests, tokens, now());
    }
}

/// By the clock of tokio, which a test may pause.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
