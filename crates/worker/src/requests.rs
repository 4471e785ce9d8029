//! Live requests: received and not yet ended. The one table by [`RequestId`], in which the gateway's cancellations and
//! credits reach a request in whichever stage it is.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use protocol::{ids::RequestId, message::Submission};

/// What the gateway may change about a request at any time, in whichever stage the request is.
#[derive(Debug)]
pub struct RequestHandle {
    cancelled: AtomicBool,
    credit: AtomicU32,
}

/// Every request between its [`Submission::Generate`] or [`Submission::Operation`] and its terminal event, by its id. An engine's sequence or a job
/// that waits for preparation has the handle, and looks at it when it comes to it.
#[derive(Debug, Default)]
pub struct RequestTable {
    requests: Mutex<HashMap<RequestId, Arc<RequestHandle>>>,
}

impl RequestHandle {
    /// A handle with the credit that the request came with.
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
        self.credit() > 0
    }

    /// How many more chunks may be sent.
    pub fn credit(&self) -> u32 {
        self.credit.load(Ordering::Relaxed)
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

impl RequestTable {
    /// Enters a request; `None` if its id is in use already.
    pub fn begin(&self, id: RequestId, credit: u32) -> Option<Arc<RequestHandle>> {
        let mut requests = self.lock();
        if requests.contains_key(&id) {
            return None;
        }
        let request = Arc::new(RequestHandle::new(credit));
        requests.insert(id, Arc::clone(&request));
        Some(request)
    }

    /// [`RequestTable::begin`] of several that spend no credit, in their order.
    pub fn begin_all(&self, ids: impl IntoIterator<Item = RequestId>) -> Vec<Option<Arc<RequestHandle>>> {
        let mut requests = self.lock();
        let enter = |id| match requests.entry(id) {
            Entry::Occupied(_) => None,
            Entry::Vacant(place) => Some(Arc::clone(place.insert(Arc::new(RequestHandle::new(0))))),
        };
        ids.into_iter().map(enter).collect()
    }

    /// Applies a cancellation or a credit. Unknown ids are ignored: the request has just ended.
    pub fn apply(&self, submission: &Submission) {
        match *submission {
            Submission::Cancel(id) => {
                if let Some(request) = self.lock().get(&id) {
                    request.cancel();
                }
            }
            Submission::Credit { id, chunks } => {
                if let Some(request) = self.lock().get(&id) {
                    request.grant(chunks);
                }
            }
            Submission::Generate(_) | Submission::Operation(_) | Submission::Drain => {}
        }
    }

    /// Removes a request that has had its terminal event, or was cancelled.
    pub fn end(&self, id: RequestId) {
        self.lock().remove(&id);
    }

    /// [`RequestTable::end`] of several. Whether no request is left.
    pub fn end_all(&self, ids: &[RequestId]) -> bool {
        let mut requests = self.lock();
        for id in ids {
            requests.remove(id);
        }
        requests.is_empty()
    }

    /// Whether no request is anywhere in the worker.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RequestId, Arc<RequestHandle>>> {
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
        let requests = RequestTable::default();
        let id = RequestId(7);
        let request = requests.begin(id, 1).unwrap();
        assert!(request.has_credit());
        request.spend_credit();
        assert!(!request.has_credit());
        requests.apply(&Submission::Credit { id, chunks: 2 });
        assert!(request.has_credit());
        requests.apply(&Submission::Credit { id, chunks: u32::MAX });
        assert!(request.has_credit(), "a huge grant must not wrap around");
    }

    #[test]
    fn several_begin_and_end_at_once() {
        let requests = RequestTable::default();
        let ids = [1, 2, 3].map(RequestId);
        requests.begin(ids[1], 1).unwrap();
        let handles = requests.begin_all(ids);
        assert_eq!(handles.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
        requests.apply(&Submission::Cancel(ids[2]));
        assert!(handles[2].as_ref().unwrap().is_cancelled());
        assert!(!requests.end_all(&ids[..2]));
        assert!(requests.end_all(&ids));
    }

    #[test]
    fn an_id_is_unique_until_it_ends() {
        let requests = RequestTable::default();
        let id = RequestId(1);
        let request = requests.begin(id, 0).unwrap();
        assert!(requests.begin(id, 0).is_none());
        requests.apply(&Submission::Cancel(id));
        assert!(request.is_cancelled());
        requests.end(id);
        assert!(requests.is_empty());
        requests.apply(&Submission::Cancel(id));
        assert!(!requests.begin(id, 0).unwrap().is_cancelled());
    }
}
