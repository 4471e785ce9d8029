//! What became of a stream, beside what should have. Pure.

use std::time::Duration;

use crate::streamed::{Refusal, Streamed};

/// The texts of undisturbed requests.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    texts: Vec<String>,
}

/// What became of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It ended as it should, with the expected text.
    Whole,
    /// It ended as it should, with another text.
    Different,
    /// It did not end as it should.
    Lost {
        /// What went wrong.
        fault: String,
        /// Whether its client was at least told, by exactly one terminal event or a refusal.
        one_end: bool,
    },
}

impl Expected {
    /// In the order of the requests.
    pub(super) fn new(texts: Vec<String>) -> Self {
        Self { texts }
    }

    /// Of the request at `place`.
    pub(super) fn text(&self, place: usize) -> &str {
        &self.texts[place]
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }
}

impl Verdict {
    /// Of a stream whose text should have been `expected`.
    pub(super) fn of(streamed: &Streamed, expected: &str) -> Self {
        match streamed.fault() {
            Some(fault) => {
                let ends = streamed.terminal_events() + u32::from(streamed.refused.is_some());
                Self::Lost { fault, one_end: ends == 1 && streamed.late == 0 }
            }
            None if streamed.text == expected => Self::Whole,
            None => Self::Different,
        }
    }
}

/// When a client that was refused comes back: a 429 says that the server is full, and when to try again. Anything else
/// is a loss.
pub(super) fn comes_back(refusal: &Refusal) -> Option<Duration> {
    refusal.retry_after.filter(|_| refusal.status == 429)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Streamed {
        Streamed { text: text.into(), chunks: 1, finishes: 1, done: 1, ..Streamed::default() }
    }

    fn lost(streamed: &Streamed) -> bool {
        match Verdict::of(streamed, "a") {
            Verdict::Lost { one_end, .. } => one_end,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_stream_is_whole_different_or_lost() {
        assert_eq!(Verdict::of(&whole("a"), "a"), Verdict::Whole);
        assert_eq!(Verdict::of(&whole("ab"), "a"), Verdict::Different);
        assert!(!lost(&Streamed { text: "a".into(), ..Streamed::default() }), "it ends in silence");
        assert!(lost(&Streamed { errors: vec!["worker_lost".into()], ..Streamed::default() }));
        assert!(!lost(&Streamed { errors: vec!["worker_lost".into()], ..whole("a") }));
        let refused = Refusal { status: 503, code: "no_worker".into(), retry_after: None };
        assert!(lost(&Streamed { refused: Some(refused), ..Streamed::default() }));
    }

    #[test]
    fn only_a_full_server_is_asked_again() {
        let refusal = |status, seconds: Option<u64>| Refusal {
            status,
            code: String::new(),
            retry_after: seconds.map(Duration::from_secs),
        };
        assert_eq!(comes_back(&refusal(429, Some(1))), Some(Duration::from_secs(1)));
        assert_eq!(comes_back(&refusal(429, None)), None);
        assert_eq!(comes_back(&refusal(503, Some(1))), None);
    }
}
