//! Requests and tokens per minute of each caller: token buckets. Pure.
//!
//! A request takes from both buckets or from none, what it did not use is given back when it ends, and one that costs
//! more than a minute's worth may run when the bucket is full. The crate `governor` can do none of the three: it takes
//! from one limiter at a time, and gives nothing back.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::caller::Caller;
use crate::config::RateLimits;

/// Callers remembered at a time. The one that has used the least of its rates is forgotten first.
const MAX_CALLERS: usize = 4096;

/// What each caller has left of its rates.
#[derive(Debug)]
pub(super) struct RateTable {
    limits: RateLimits,
    callers: HashMap<Caller, Buckets>,
}

/// What one caller has left.
#[derive(Clone, Copy, Debug)]
struct Buckets {
    requests: f64,
    tokens: f64,
    /// When this was so.
    at: Instant,
}

/// A rate that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateExceeded {
    /// Of what.
    pub unit: RateUnit,
    /// How many of them a minute.
    pub per_minute: u64,
    /// When there will be enough of it, if nothing else takes it.
    pub retry_after: Duration,
}

/// Of what a rate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateUnit {
    /// Of requests.
    Requests,
    /// Of tokens.
    Tokens,
}

impl RateUnit {
    /// Its name, for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        }
    }
}

impl RateTable {
    pub(super) fn new(limits: RateLimits) -> Self {
        Self { limits, callers: HashMap::new() }
    }

    /// Changes the rates. What callers have used stays used.
    pub(super) fn set_limits(&mut self, limits: RateLimits) {
        self.limits = limits;
    }

    /// Takes one request and so many tokens, or says when that will be possible.
    pub(super) fn take(&mut self, caller: &Caller, tokens: u64, now: Instant) -> Result<(), RateExceeded> {
        let RateLimits { requests_per_minute, tokens_per_minute } = self.limits;
        if requests_per_minute.is_none() && tokens_per_minute.is_none() {
            return Ok(());
        }
        let mut buckets = self.buckets(caller, now);
        let rates = [
            (RateUnit::Requests, requests_per_minute, buckets.requests, 1),
            (RateUnit::Tokens, tokens_per_minute, buckets.tokens, tokens),
        ];
        let exceeded = rates.iter().filter_map(|(unit, limit, left, cost)| {
            let per_minute = (*limit)?;
            let retry_after = time_until((*cost).min(per_minute) as f64, *left, per_minute)?;
            Some(RateExceeded { unit: *unit, per_minute, retry_after })
        });
        if let Some(worst) = exceeded.max_by_key(|exceeded| exceeded.retry_after) {
            return Err(worst);
        }
        buckets.requests -= 1.0;
        buckets.tokens -= tokens as f64;
        self.put(caller, buckets);
        Ok(())
    }

    /// Gives back what a request did not use, or takes what it used beyond what was taken for it.
    pub(super) fn settle(&mut self, caller: &Caller, requests: f64, tokens: f64, now: Instant) {
        if self.callers.contains_key(caller) {
            let mut buckets = self.buckets(caller, now);
            buckets.requests += requests;
            buckets.tokens += tokens;
            self.put(caller, buckets);
        }
    }

    /// What a caller has left now.
    fn buckets(&self, caller: &Caller, now: Instant) -> Buckets {
        // Without a limit nothing is used up: a limit that is set later begins with a full bucket.
        let capacity = |limit: Option<u64>| limit.map_or(f64::INFINITY, |limit| limit as f64);
        let RateLimits { requests_per_minute, tokens_per_minute } = self.limits;
        let (requests, tokens) = (capacity(requests_per_minute), capacity(tokens_per_minute));
        let Some(left) = self.callers.get(caller) else { return Buckets { requests, tokens, at: now } };
        let minutes = now.saturating_duration_since(left.at).as_secs_f64() / 60.0;
        let filled = |left: f64, capacity: f64| match capacity.is_finite() {
            true => (left + capacity * minutes).min(capacity),
            false => capacity,
        };
        Buckets {
            requests: filled(left.requests, requests),
            tokens: filled(left.tokens, tokens),
            at: now.max(left.at),
        }
    }

    fn put(&mut self, caller: &Caller, buckets: Buckets) {
        if self.callers.len() >= MAX_CALLERS && !self.callers.contains_key(caller) {
            self.forget(buckets.at);
        }
        self.callers.insert(caller.clone(), buckets);
    }

    /// Makes room: forgets who has all of its rates, or else who has used the least of them.
    fn forget(&mut self, now: Instant) {
        let share = |left: f64, limit: Option<u64>| limit.map_or(1.0, |limit| left / limit as f64);
        let shares: Vec<(Caller, f64)> = self
            .callers
            .keys()
            .map(|caller| {
                let Buckets { requests, tokens, .. } = self.buckets(caller, now);
                let RateLimits { requests_per_minute, tokens_per_minute } = self.limits;
                let left = share(requests, requests_per_minute).min(share(tokens, tokens_per_minute));
                (caller.clone(), left)
            })
            .collect();
        let most = shares.iter().map(|(_, left)| *left).fold(f64::MIN, f64::max);
        for (caller, left) in shares {
            if left >= most {
                self.callers.remove(&caller);
            }
        }
    }
}

/// When `left`, filling at `per_minute`, will be `needed`; `None` if it is.
fn time_until(needed: f64, left: f64, per_minute: u64) -> Option<Duration> {
    let missing = needed - left;
    // What adding fractions costs must make nobody wait.
    (missing > 1e-6).then(|| Duration::from_secs_f64(missing * 60.0 / per_minute as f64))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const OFF: RateLimits = RateLimits { requests_per_minute: None, tokens_per_minute: None };

    fn caller(name: &str) -> Caller {
        Caller { key: Some(name.into()) }
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn without_rates_everything_passes_and_nobody_is_remembered() {
        let mut table = RateTable::new(OFF);
        let now = Instant::now();
        for _ in 0..1000 {
            table.take(&caller("a"), u64::MAX, now).unwrap();
        }
        assert!(table.callers.is_empty());
    }

    #[test]
    fn a_minutes_requests_pass_at_once_and_then_one_at_a_time() {
        let mut table = RateTable::new(RateLimits { requests_per_minute: Some(30), ..OFF });
        let start = Instant::now();
        for _ in 0..30 {
            table.take(&caller("a"), 100, start).unwrap();
        }
        let exceeded = table.take(&caller("a"), 100, start).unwrap_err();
        assert_eq!((exceeded.unit, exceeded.per_minute), (RateUnit::Requests, 30));
        assert_eq!(exceeded.retry_after, seconds(2.0));
        table.take(&caller("b"), 100, start).unwrap();
        assert!(table.take(&caller("a"), 100, start + seconds(1.9)).is_err());
        table.take(&caller("a"), 100, start + seconds(2.0)).unwrap();
        assert!(table.take(&caller("a"), 100, start + seconds(2.0)).is_err());
    }

    #[test]
    fn what_one_rate_refuses_costs_nothing_of_the_other() {
        let mut table =
            RateTable::new(RateLimits { requests_per_minute: Some(2), tokens_per_minute: Some(600) });
        let start = Instant::now();
        table.take(&caller("a"), 500, start).unwrap();
        for _ in 0..10 {
            let exceeded = table.take(&caller("a"), 200, start).unwrap_err();
            assert_eq!((exceeded.unit, exceeded.retry_after), (RateUnit::Tokens, seconds(10.0)));
        }
        table.take(&caller("a"), 100, start).unwrap();
        assert_eq!(table.take(&caller("a"), 1, start).unwrap_err().unit, RateUnit::Requests);
    }

    #[test]
    fn what_was_not_used_is_given_back_and_what_was_used_beyond_is_taken() {
        let mut table = RateTable::new(RateLimits { tokens_per_minute: Some(600), ..OFF });
        let start = Instant::now();
        table.take(&caller("a"), 600, start).unwrap();
        table.settle(&caller("a"), 0.0, 500.0, start);
        table.take(&caller("a"), 500, start).unwrap();
        table.settle(&caller("a"), 0.0, -100.0, start);
        assert_eq!(table.take(&caller("a"), 100, start).unwrap_err().retry_after, seconds(20.0));
    }

    #[test]
    fn a_rate_that_is_set_later_begins_with_a_full_bucket() {
        let requests = RateLimits { requests_per_minute: Some(60), ..OFF };
        let mut table = RateTable::new(requests);
        let start = Instant::now();
        table.take(&caller("a"), 1_000_000, start).unwrap();
        table.set_limits(RateLimits { tokens_per_minute: Some(600), ..requests });
        table.take(&caller("a"), 600, start).unwrap();
        assert_eq!(table.take(&caller("a"), 10, start).unwrap_err().retry_after, seconds(1.0));
        table.set_limits(requests);
        table.take(&caller("a"), 600, start).unwrap();
    }

    #[test]
    fn a_request_of_more_than_a_minutes_worth_waits_for_a_full_bucket() {
        let mut table = RateTable::new(RateLimits { tokens_per_minute: Some(60), ..OFF });
        let start = Instant::now();
        table.take(&caller("a"), 180, start).unwrap();
        let exceeded = table.take(&caller("a"), 180, start).unwrap_err();
        assert_eq!(exceeded.retry_after, seconds(180.0), "the debt, and a full bucket");
        table.take(&caller("a"), 180, start + seconds(180.0)).unwrap();
    }

    #[test]
    fn the_table_is_bounded_and_forgets_those_first_who_used_least() {
        let mut table = RateTable::new(RateLimits { requests_per_minute: Some(2), ..OFF });
        let now = Instant::now();
        let heavy = caller("heavy");
        (0..2).for_each(|_| table.take(&heavy, 1, now).unwrap());
        for n in 0..2 * MAX_CALLERS {
            table.take(&caller(&n.to_string()), 1, now).unwrap();
            assert!(table.callers.len() <= MAX_CALLERS);
        }
        assert!(table.take(&heavy, 1, now).is_err(), "it was not forgotten");
    }

    proptest! {
        /// Over any time, no more passes than the rate allows, and whoever waits as long as told passes.
        #[test]
        fn the_rate_holds(
            steps in prop::collection::vec((0..2000u64, 1..80u64), 1..200),
            (requests, tokens) in (1..100u64, 1..500u64),
        ) {
            let limits = RateLimits { requests_per_minute: Some(requests), tokens_per_minute: Some(tokens) };
            let mut table = RateTable::new(limits);
            let start = Instant::now();
            let mut now = start;
            let (mut passed, mut work) = (0.0, 0.0);
            for (millis, cost) in steps {
                now += Duration::from_millis(millis);
                if let Err(exceeded) = table.take(&caller("a"), cost, now) {
                    now += exceeded.retry_after + Duration::from_micros(1);
                    prop_assert_eq!(table.take(&caller("a"), cost, now), Ok(()));
                }
                passed += 1.0;
                work += cost as f64;
                let minutes = (now - start).as_secs_f64() / 60.0;
                prop_assert!(passed <= requests as f64 * (1.0 + minutes) + 0.01);
                // One may go beyond the bucket.
                prop_assert!(work <= tokens as f64 * (1.0 + minutes) + 80.0);
            }
        }
    }
}
