//! What a client saw of one streamed request.

use std::time::Duration;

use crate::{sse::Event, usage::Usage};

/// A request that was not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// `error.code` of the body.
    pub code: String,
    /// When to come back, if the gateway says so.
    pub retry_after: Option<Duration>,
}

/// What a client saw of one streamed request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streamed {
    /// The whole text.
    pub text: String,
    /// Events with text.
    pub chunks: u32,
    /// Events with a finish reason.
    pub finishes: u32,
    /// The last of them.
    pub finish_reason: Option<String>,
    /// Codes of error events.
    pub errors: Vec<String>,
    /// How many tokens there were, if the stream said so.
    pub usage: Option<Usage>,
    /// `[DONE]`s.
    pub done: u32,
    /// Events after the first terminal one, but for the usage and `[DONE]`.
    pub late: u32,
    /// The request was refused before the stream began.
    pub refused: Option<Refusal>,
    /// Why the connection failed, if it did.
    pub broken: Option<String>,
}

impl Streamed {
    /// Events that end a stream.
    pub fn terminal_events(&self) -> u32 {
        self.finishes + self.errors.len() as u32
    }

    /// Whether it ended as it should: one finish reason, `[DONE]`, and nothing in between or behind.
    pub fn is_whole(&self) -> bool {
        let Self {
            text: _,
            chunks: _,
            usage: _,
            finish_reason: _,
            finishes,
            errors,
            done,
            late,
            refused,
            broken,
        } = self;
        (*finishes, *done, *late) == (1, 1, 0) && errors.is_empty() && refused.is_none() && broken.is_none()
    }

    /// What went wrong, in a few words that are the same for the same cause.
    pub fn fault(&self) -> Option<String> {
        if self.is_whole() {
            return None;
        }
        let refused = self.refused.as_ref().map(|it| format!("refused with {} {}", it.status, it.code));
        let failed = || self.errors.first().map(|code| format!("error event {code}"));
        let broken = || self.broken.as_ref().map(|why| format!("broken: {why}"));
        let counts = || format!("{} finish reasons, {} DONE, {} late", self.finishes, self.done, self.late);
        Some(refused.or_else(failed).or_else(broken).unwrap_or_else(counts))
    }

    pub(crate) fn add(&mut self, event: Event) {
        let Event { text, finish, error, usage, done } = event;
        let is_over = self.terminal_events() + self.done > 0;
        if is_over && (self.done > 0 || usage.is_none()) && !done {
            self.late += 1;
        }
        if let Some(text) = text {
            self.chunks += 1;
            self.text += &text;
        }
        self.finishes += u32::from(finish.is_some());
        self.finish_reason = finish.or(self.finish_reason.take());
        self.errors.extend(error);
        self.usage = usage.or(self.usage);
        self.done += u32::from(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Event {
        Event { text: Some(text.into()), ..Event::default() }
    }

    fn finish() -> Event {
        Event { finish: Some("length".into()), ..Event::default() }
    }

    fn done() -> Event {
        Event { done: true, ..Event::default() }
    }

    fn error() -> Event {
        Event { error: Some("worker_lost".into()), ..Event::default() }
    }

    fn usage() -> Event {
        Event { usage: Some(Usage { prompt: 4, cached: 0, answer: 2 }), ..Event::default() }
    }

    fn streamed(events: Vec<Event>) -> Streamed {
        let mut streamed = Streamed::default();
        events.into_iter().for_each(|event| streamed.add(event));
        streamed
    }

    #[test]
    fn only_one_way_to_end_is_whole() {
        let whole = streamed(vec![text("a"), text("b"), finish(), done()]);
        assert!(whole.is_whole() && whole.fault().is_none());
        assert_eq!((whole.text.as_str(), whole.chunks, whole.usage), ("ab", 2, None));
        let counted = streamed(vec![text("a"), finish(), usage(), done()]);
        assert!(counted.is_whole() && counted.usage == usage().usage);
        for events in [
            vec![text("a"), finish()],
            vec![text("a"), done()],
            vec![text("a"), finish(), finish(), done()],
            vec![text("a"), finish(), text("b"), done()],
            vec![text("a"), finish(), done(), done()],
            vec![text("a"), error()],
            vec![text("a"), finish(), error()],
            vec![text("a"), finish(), done(), usage()],
            vec![],
        ] {
            let streamed = streamed(events);
            assert!(!streamed.is_whole() && streamed.fault().is_some(), "{streamed:?}");
        }
    }
}
