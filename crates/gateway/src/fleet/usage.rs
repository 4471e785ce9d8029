//! Who uses a model, and when it was used last.

use std::{
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::Notify;

/// How much one model is used.
#[derive(Debug)]
pub(super) struct Usage {
    state: Mutex<State>,
    /// Notified when the model becomes idle: wakes one request that is waiting for memory.
    freed: Arc<Notify>,
    /// Told at the same time: all who wait for this model.
    unused: Notify,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// Requests that use it, or wait for it.
    in_use: usize,
    /// When the last of them came or ended.
    last_used: Instant,
}

/// A request's use of a model, which is not unloaded to make room for another while this lives. Held from before a
/// request is admitted until its answer has ended.
#[derive(Debug)]
pub struct InUse {
    name: String,
    usage: Arc<Usage>,
}

impl Usage {
    /// Nobody uses it yet. `freed` is told each time nobody does any more.
    pub(super) fn new(freed: Arc<Notify>) -> Arc<Self> {
        let state = State { in_use: 0, last_used: now() };
        Arc::new(Self { state: Mutex::new(state), freed, unused: Notify::new() })
    }

    /// Another request uses the model, which is known as `name`.
    pub(super) fn enter(self: &Arc<Self>, name: &str) -> InUse {
        let mut state = self.state();
        state.in_use += 1;
        state.last_used = now();
        InUse { name: name.to_owned(), usage: Arc::clone(self) }
    }

    /// It is loaded, which counts as a use.
    pub(super) fn touch(&self) {
        let mut state = self.state();
        state.last_used = now();
        if state.in_use == 0 {
            self.freed.notify_one();
        }
    }

    /// Requests that use it, and when the last of them came or ended.
    pub(super) fn get(&self) -> (usize, Instant) {
        let State { in_use, last_used } = *self.state();
        (in_use, last_used)
    }

    /// Returns when nobody uses it.
    pub(super) async fn unused(&self) {
        loop {
            // Asked for before the look, so that an end between the two is not missed.
            let unused = self.unused.notified();
            tokio::pin!(unused);
            unused.as_mut().enable();
            if self.get().0 == 0 {
                return;
            }
            unused.await;
        }
    }

    fn leave(&self) {
        let mut state = self.state();
        state.in_use -= 1;
        state.last_used = now();
        if state.in_use == 0 {
            self.freed.notify_one();
            self.unused.notify_waiters();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Right after every statement: a panic elsewhere can't have broken it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InUse {
    /// Another use of the same model.
    pub fn again(&self) -> Self {
        self.usage.enter(&self.name)
    }
}

#[cfg(test)]
impl InUse {
    /// The use of a model that is in no table.
    pub(crate) fn alone(name: &str) -> Self {
        Usage::new(Arc::default()).enter(name)
    }
}

/// The name under which the model is listed.
impl Deref for InUse {
    type Target = str;

    fn deref(&self) -> &str {
        &self.name
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.usage.leave();
    }
}

/// By the clock of timers, which a test may pause.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_told_when_the_last_request_is_done() {
        let freed = Arc::new(Notify::new());
        let usage = Usage::new(Arc::clone(&freed));
        let start = now();
        let (first, second) = (usage.enter("m"), usage.enter("m"));
        assert_eq!((&*first, usage.get()), ("m", (2, start)));
        advance(Duration::from_secs(3)).await;
        let mut unused = Box::pin(usage.unused());
        assert!(unused.as_mut().now_or_never().is_none());
        drop(first);
        assert!(unused.as_mut().now_or_never().is_none());
        assert_eq!(usage.get(), (1, start + Duration::from_secs(3)));
        assert!(freed.notified().now_or_never().is_none());
        advance(Duration::from_secs(1)).await;
        drop(second);
        assert!(unused.now_or_never().is_some() && usage.unused().now_or_never().is_some());
        assert_eq!(usage.get(), (0, start + Duration::from_secs(4)));
        assert!(freed.notified().now_or_never().is_some());
        advance(Duration::from_secs(1)).await;
        usage.touch();
        assert_eq!(usage.get(), (0, start + Duration::from_secs(5)));
        assert!(freed.notified().now_or_never().is_some());
    }
}
