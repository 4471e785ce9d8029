//! Requests that have been received and not yet ended, and what the gateway may change about them meanwhile.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use protocol::{ids::RequestId, message::Submission};

/// What the gateway may change about a request at any time, in whichever stage the request is.
#[derive(Debug)]
pub struct Control {
    cancelled: AtomicBool,
    credit: AtomicU32,
}

/// Every request between its [`Submission::Generate`] and its terminal event.
#[derive(Debug, Default)]
pub struct Registry {
    requests: Mutex<HashMap<RequestId, Arc<Control>>>,
}

impl Control {
    /// A control with the credit that the request came with.
    pub fn new(credit: u32) -> Self {
        Self { cancelled: AtomicBool::new(false), credit: AtomicU32::new(credit) }
    }

    /// Whether the client has gone.
    pub fn is_cancelled(&self) -> bool {
        // Relaxed: the flag guards no other memory; being one step late is allowed.
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Whether another chunk may be sent.
    pub fn has_credit(&self) -> bool {
        self.credit.load(Ordering::Relaxed) > 0
    }

    /// Takes one credit for a chunk. Only the engine spends, so a credit once seen can't be lost to a race.
    pub fn spend_credit(&self) {
        let spent =
            self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |credit| credit.checked_sub(1));
        debug_assert!(spent.is_ok(), "a chunk was sent without credit");
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn grant(&self, chunks: u32) {
        // Saturating: a gateway that grants too much must not wrap the credit around to none.
        let _ = self
            .credit
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |credit| Some(credit.saturating_add(chunks)));
    }
}

impl Registry {
    /// Enters a request; `None` if its id is in use already.
    pub fn begin(&self, id: RequestId, credit: u32) -> Option<Arc<Control>> {
        let mut requests = self.lock();
        if requests.contains_key(&id) {
            return None;
        }
        let control = Arc::new(Control::new(credit));
        requests.insert(id, Arc::clone(&control));
        Some(control)
    }

    /// Applies a cancellation or a credit. Unknown ids are ignored: the request has just ended.
    pub fn apply(&self, submission: &Submission) {
        match *submission {
            Submission::Cancel(id) => {
                if let Some(control) = self.lock().get(&id) {
                    control.cancel();
                }
            }
            Submission::Credit { id, chunks } => {
                if let Some(control) = self.lock().get(&id) {
                    control.grant(chunks);
                }
            }
            Submission::Generate(_) | Submission::Drain => {}
        }
    }

    /// Removes a request that has had its terminal event, or was cancelled.
    pub fn end(&self, id: RequestId) {
        self.lock().remove(&id);
    }

    /// Whether no request is anywhere in the worker.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RequestId, Arc<Control>>> {
        // No code panics while holding it, and the map is valid after every single operation.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn credit_is_spent_and_granted() {
        let registry = Registry::default();
        let id = RequestId(7);
        let control = registry.begin(id, 1).unwrap();
        assert!(control.has_credit());
        control.spend_credit();
        assert!(!control.has_credit());
        registry.apply(&Submission::Credit { id, chunks: 2 });
        assert!(control.has_credit());
        registry.apply(&Submission::Credit { id, chunks: u32::MAX });
        assert!(control.has_credit(), "a huge grant must not wrap around");
    }

    #[test]
    fn an_id_is_unique_until_it_ends() {
        let registry = Registry::default();
        let id = RequestId(1);
        let control = registry.begin(id, 0).unwrap();
        assert!(registry.begin(id, 0).is_none());
        registry.apply(&Submission::Cancel(id));
        assert!(control.is_cancelled());
        registry.end(id);
        assert!(registry.is_empty());
        registry.apply(&Submission::Cancel(id));
        assert!(!registry.begin(id, 0).unwrap().is_cancelled());
    }
}
