//! What a connection is doing, and until when it may.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};

use crate::{
    config::Connections,
    http::{error::ApiError, stream::StreamHandle},
};

/// Shared by a connection's socket, its requests and the task that drives it.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
    /// Told when the connection must give its place up.
    pub(super) evicted: Notify,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    since: Instant,
    lag: Option<Lag>,
    /// Bytes the socket has taken.
    written: u64,
    /// Of the last answer, if that is a stream.
    stream: Option<StreamHandle>,
}

/// Where a connection is between two requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No request has begun.
    Idle,
    /// A part of a header has come, or TLS is being agreed on.
    Head,
    /// A part of a body has come.
    Body,
    /// The request is complete, its answer is not.
    Answering,
}

/// Bytes wait for a reader that takes them slowly or not at all.
#[derive(Clone, Copy, Debug)]
struct Lag {
    since: Instant,
    written: u64,
    /// The stream was ended; what is left of it waits for a last while.
    is_last: bool,
}

/// A time limit that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// No request came.
    Idle,
    /// A header was not completed.
    Head,
    /// The client did not read its answer.
    Reading,
}

/// After its stream was ended, a client may still read what it was sent and why it ended. That is little, and costs a
/// connection and its buffers.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// A reader must take at least this many bytes a second while bytes wait for it. A client that takes one byte now
/// and then makes progress too, but would hold its stream for days.
const MIN_BYTES_PER_SECOND: u64 = 256;

impl Activity {
    pub(super) fn new() -> Self {
        let state = State { phase: Phase::Idle, since: Instant::now(), lag: None, written: 0, stream: None };
        Self { state: Mutex::new(state), evicted: Notify::new() }
    }

    pub(super) fn enter(&self, phase: Phase) {
        let mut state = self.state();
        (state.phase, state.since) = (phase, Instant::now());
    }

    /// The answer has begun. `stream` ends it, if it is a stream.
    pub(super) fn answering(&self, stream: Option<StreamHandle>) {
        self.state().stream = stream;
    }

    /// The client does not read: ends the stream that it was sent, and lets it read the rest for a while. False if there
    /// is none to end.
    pub(super) fn give_stream_up(&self, error: &ApiError) -> bool {
        let Some(stream) = self.state().stream.take() else { return false };
        // Not while the state is locked: it ends a generation.
        let ended = stream.give_up(error);
        let mut state = self.state();
        let written = state.written;
        if let (true, Some(lag)) = (ended, &mut state.lag) {
            *lag = Lag { since: Instant::now(), written, is_last: true };
        }
        ended
    }

    /// The request's body ended; its answer may have ended already.
    pub(super) fn body_ended(&self) {
        if self.state().phase == Phase::Body {
            self.enter(Phase::Answering);
        }
    }

    /// Bytes came. Returns whether a request begins with them.
    pub(super) fn received(&self) -> bool {
        let begins = self.state().phase == Phase::Idle;
        if begins {
            self.enter(Phase::Head);
        }
        begins
    }

    /// The socket took bytes.
    pub(super) fn wrote(&self, bytes: usize) {
        self.state().written += bytes as u64;
    }

    /// The socket takes no more bytes for now.
    pub(super) fn blocked(&self) {
        let mut state = self.state();
        let written = state.written;
        state.lag.get_or_insert_with(|| Lag { since: Instant::now(), written, is_last: false });
    }

    /// The socket has taken all there was.
    pub(super) fn flushed(&self) {
        let mut state = self.state();
        if state.lag.take().is_some() {
            state.since = Instant::now();
        }
    }

    /// What the connection is doing, and since when.
    pub(super) fn phase(&self) -> (Phase, Instant) {
        self.state().phase()
    }

    /// The next moment at which something expires. `None` if nothing can.
    pub(super) fn deadline(&self, limits: &Connections) -> Option<Instant> {
        let state = self.state();
        let phase = match state.phase() {
            (Phase::Idle, since) => Some(since + limits.idle_timeout),
            (Phase::Head, since) => Some(since + limits.header_timeout),
            // What reads the body has a limit of its own for it.
            (Phase::Body | Phase::Answering, _) => None,
        };
        let reading = state.lag.map(|lag| lag.since + lag.longest(limits));
        [phase, reading].into_iter().flatten().min()
    }

    /// What has expired by now, if anything.
    pub(super) fn expired(&self, limits: &Connections) -> Option<Expired> {
        let now = Instant::now();
        let mut state = self.state();
        let written = state.written;
        if let Some(lag) = &mut state.lag
            && now >= lag.since + lag.longest(limits)
        {
            if written - lag.written < least(lag.longest(limits)) {
                return Some(Expired::Reading);
            }
            *lag = Lag { since: now, written, ..*lag };
        }
        match state.phase() {
            (Phase::Idle, since) if now >= since + limits.idle_timeout => Some(Expired::Idle),
            (Phase::Head, since) if now >= since + limits.header_timeout => Some(Expired::Head),
            _ => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// An answer goes on until its client has it, although the next request may have begun.
    fn phase(&self) -> (Phase, Instant) {
        (if self.lag.is_some() { Phase::Answering } else { self.phase }, self.since)
    }
}

impl Lag {
    /// How long it may last without progress.
    fn longest(&self, limits: &Connections) -> Duration {
        let timeout = limits.slow_consumer_timeout;
        if self.is_last { timeout.min(LAST_WORDS) } else { timeout }
    }
}

/// Bytes that count as progress within `time`: at least one.
fn least(time: Duration) -> u64 {
    (time.as_millis() as u64 * MIN_BYTES_PER_SECOND / 1000).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Connections = Connections {
        max_connections: 1,
        max_connections_per_address: 1,
        max_header_bytes: 1,
        max_headers: 1,
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
        slow_consumer_timeout: Duration::from_secs(20),
    };

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_has_one_limit_however_often_a_byte_comes() {
        let activity = Activity::new();
        pass(59).await;
        activity.received();
        for _ in 0..9 {
            pass(1).await;
            activity.received();
            assert_eq!(activity.expired(&LIMITS), None);
        }
        pass(1).await;
        assert_eq!(activity.expired(&LIMITS), Some(Expired::Head));
        activity.enter(Phase::Answering);
        assert_eq!((activity.expired(&LIMITS), activity.deadline(&LIMITS)), (None, None));
        activity.enter(Phase::Idle);
        pass(60).await;
        assert_eq!(activity.expired(&LIMITS), Some(Expired::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_not_idle_before_its_answer_was_taken() {
        let activity = Activity::new();
        activity.enter(Phase::Answering);
        activity.blocked();
        activity.enter(Phase::Idle);
        for _ in 0..10 {
            pass(19).await;
            activity.wrote(1 << 20);
            assert_eq!((activity.phase().0, activity.expired(&LIMITS)), (Phase::Answering, None));
        }
        activity.flushed();
        pass(59).await;
        assert_eq!((activity.phase().0, activity.expired(&LIMITS)), (Phase::Idle, None));
        pass(1).await;
        assert_eq!(activity.expired(&LIMITS), Some(Expired::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_a_stream_that_was_ended_waits_for_a_last_while() {
        let activity = Activity::new();
        activity.enter(Phase::Answering);
        activity.blocked();
        pass(20).await;
        assert_eq!(activity.expired(&LIMITS), Some(Expired::Reading));
        let no_stream = activity.give_stream_up(&ApiError::SlowConsumer(LIMITS.slow_consumer_timeout));
        assert!(
            !no_stream && activity.expired(&LIMITS) == Some(Expired::Reading),
            "nothing more is waited for"
        );
        // As `give_stream_up` leaves it if there is one.
        activity.state().lag = Some(Lag { since: Instant::now(), written: 0, is_last: true });
        assert_eq!(activity.deadline(&LIMITS), Some(Instant::now() + LAST_WORDS));
        pass(10).await;
        assert_eq!(activity.expired(&LIMITS), Some(Expired::Reading));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_too_little_expires_and_a_slow_one_does_not() {
        for (each, expires) in [(0, true), (1, true), (255, true), (256, false)] {
            let activity = Activity::new();
            activity.enter(Phase::Answering);
            activity.blocked();
            let mut expired = None;
            for _ in 0..60 {
                pass(1).await;
                activity.wrote(each);
                activity.blocked();
                expired = expired.or(activity.expired(&LIMITS));
            }
            assert_eq!(expired, expires.then_some(Expired::Reading), "{each} bytes a second");
            activity.flushed();
            pass(1000).await;
            assert_eq!(activity.expired(&LIMITS), None);
        }
    }
}
