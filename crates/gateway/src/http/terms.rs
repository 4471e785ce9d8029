//! On what terms a request is served: for whom, how urgently, and until when. The same in every dialect.

use std::time::{Duration, Instant};

use axum::http::{Extensions, HeaderMap};

use super::{error::ApiError, json::field};
use crate::serve::{Caller, GenerateRequest, Priority};

/// Headers. They override the fields of the body, so that whoever stands in front of the server can decide.
const PRIORITY: &str = "x-priority";
const TIMEOUT: &str = "x-request-timeout-ms";

/// Longest time for an answer that a client may name.
pub(super) const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// What a request's headers and its connection say of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    caller: Caller,
    priority: Option<Priority>,
    timeout: Option<Duration>,
}

impl Terms {
    /// Those of a request.
    ///
    /// # Errors
    /// A header has a value that it can't have.
    pub(super) fn of(headers: &HeaderMap, extensions: &Extensions) -> Result<Self, ApiError> {
        let caller = extensions.get::<Caller>().cloned().unwrap_or_default();
        let priority = header(headers, PRIORITY)?.map(str::parse).transpose();
        let priority = priority.map_err(|problem| field(PRIORITY, problem))?;
        let timeout = header(headers, TIMEOUT)?.map(|millis| {
            let millis = millis.trim().parse().ok().filter(|millis| *millis > 0);
            let timeout = millis.map(Duration::from_millis).filter(|timeout| *timeout <= MAX_TIMEOUT);
            timeout.ok_or_else(|| field(TIMEOUT, "must be a number of milliseconds, from 1 to a day's"))
        });
        Ok(Self { caller, priority, timeout: timeout.transpose()? })
    }

    /// When an answer comes too late, for a request that arrived at `arrived`.
    pub(super) fn deadline(&self, arrived: Instant) -> Option<Instant> {
        self.timeout.map(|timeout| arrived + timeout)
    }

    /// Whether it is to be served before what has no priority.
    pub(super) fn is_urgent(&self) -> bool {
        self.priority.is_some_and(Priority::is_high)
    }

    /// Applies them to a request that arrived at `arrived`. `timeout` is what its body says.
    pub(super) fn apply(self, request: &mut GenerateRequest, timeout: Option<Duration>, arrived: Instant) {
        request.caller = self.caller;
        request.priority = self.priority.unwrap_or(request.priority);
        request.deadline = self.timeout.or(timeout).map(|timeout| arrived + timeout);
    }
}

/// A header's value; `None` if there is none, or an empty one.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().map_err(|_| field(name, "must be ASCII text"))?.trim();
    Ok(Some(text).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::http::HeaderValue;

    use super::*;

    fn terms(headers: &[(&'static str, &str)]) -> Result<Terms, ApiError> {
        let headers = headers.iter().map(|(name, value)| {
            (axum::http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        });
        Terms::of(&headers.collect(), &Extensions::new())
    }

    #[test]
    fn headers_say_how_urgent_it_is_and_how_long_it_may_take() {
        assert_eq!(terms(&[]).unwrap(), Terms::default());
        assert_eq!(terms(&[(PRIORITY, ""), (TIMEOUT, " ")]).unwrap(), Terms::default());
        let set = terms(&[(PRIORITY, "high"), (TIMEOUT, "1500")]).unwrap();
        assert_eq!((set.priority, set.timeout), (Some(Priority::HIGH), Some(Duration::from_millis(1500))));
        let now = Instant::now();
        assert_eq!((set.is_urgent(), set.deadline(now)), (true, Some(now + Duration::from_millis(1500))));
        assert!(!Terms::default().is_urgent() && !terms(&[(PRIORITY, "low")]).unwrap().is_urgent());
        assert_eq!(terms(&[(PRIORITY, "-3")]).unwrap().priority, Some(Priority(-3)));
    }

    #[test]
    fn impossible_headers_are_refused_by_name() {
        for (name, value) in [
            (PRIORITY, "urgent"),
            (TIMEOUT, "0"),
            (TIMEOUT, "-1"),
            (TIMEOUT, "2s"),
            (TIMEOUT, "86400001"),
            (TIMEOUT, "99999999999999999999999"),
        ] {
            let report = terms(&[(name, value)]).unwrap_err().report();
            assert_eq!(report.param.as_deref(), Some(name), "{value}");
        }
    }

    #[test]
    fn headers_override_the_body() {
        let now = Instant::now();
        let body = GenerateRequest { priority: Priority::LOW, ..crate::serve::plain_request("m") };
        let second = Some(Duration::from_secs(1));
        let mut request = body.clone();
        terms(&[]).unwrap().apply(&mut request, second, now);
        assert_eq!((request.priority, request.deadline), (Priority::LOW, Some(now + Duration::from_secs(1))));
        let mut request = body.clone();
        terms(&[(PRIORITY, "high"), (TIMEOUT, "500")]).unwrap().apply(&mut request, second, now);
        let deadline = Some(now + Duration::from_millis(500));
        assert_eq!((request.priority, request.deadline), (Priority::HIGH, deadline));
        let mut request = body;
        terms(&[]).unwrap().apply(&mut request, None, now);
        assert_eq!(request.deadline, None);
    }

    #[test]
    fn the_caller_is_the_one_that_was_authenticated() {
        let caller = Caller { key: Some("ann".into()) };
        let mut extensions = Extensions::new();
        extensions.insert(caller.clone());
        assert_eq!(Terms::of(&HeaderMap::new(), &extensions).unwrap().caller, caller);
    }
}
