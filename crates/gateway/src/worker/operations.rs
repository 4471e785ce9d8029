//! Operations that one worker process has yet to answer.
//!
//! ```text
//! Operate ─ enter ─► a slot of the table, and the outbox ─► worker
//!    ▲                     │
//!    └────── woken ────────┴── deliver ◄── the answers of a report, all under one lock
//! ```
//!
//! The table has nothing of the operation but who waits for it, and then the answer until it is fetched. The slots are
//! used again and again, so an operation takes no memory of its own here.

use std::{
    borrow::Borrow,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use protocol::{
    ids::RequestId,
    message::{Answer, Failure, FailureKind, OperationKind, StreamEvent, StreamEventKind},
};
use tokio::sync::Notify;

use super::{batcher::Queued, outbox::Outbox, streams::unsendable};

/// The open operations of one worker process.
#[derive(Debug, Default)]
pub struct Operations {
    table: Mutex<Table>,
    /// Notified when the last one was answered.
    idle: Notify,
}

#[derive(Debug, Default)]
struct Table {
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Operations that were ever begun.
    begun: u64,
    /// Slots whose operation is not answered.
    waiting: usize,
    /// Set once, when the worker takes nothing new or is gone.
    refusal: Option<Failure>,
}

#[derive(Debug)]
enum Slot {
    Free,
    Waiting { id: RequestId, waker: Waker },
    Answered { id: RequestId, answer: Result<Answer, Failure> },
}

/// An operation that a worker is asked for: resolves to its answer. Nothing is sent before it is polled; dropping it
/// cancels it.
#[derive(Debug)]
#[must_use = "nothing is asked for before it is awaited"]
pub struct Operate<'a, K> {
    operations: &'a Operations,
    outbox: &'a Outbox,
    kind: K,
    urgent: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Sent(RequestId),
    Done,
}

/// Ids of operations have this bit, and those of streams do not.
const OPERATION: u64 = 1 << 63;

/// The lower bits of an operation's id are its slot; those above are the number of operations before it, so that no id
/// is used twice.
const SLOT_BITS: u32 = 20;

/// Most operations that are open at the same time. Admission lets far fewer in.
const MAX_OPEN: usize = 1 << SLOT_BITS;

/// Free slots beyond this many are given back.
const KEPT: usize = 4096;

/// Whether `id` is an operation's.
pub(super) fn is_operation(id: RequestId) -> bool {
    id.0 & OPERATION != 0
}

impl Operations {
    /// Asks for `kind`. An `urgent` operation is not held for others to share its frame.
    pub(super) fn operate<'a, K>(&'a self, outbox: &'a Outbox, kind: K, urgent: bool) -> Operate<'a, K>
    where
        K: Borrow<OperationKind> + Unpin,
    {
        Operate { operations: self, outbox, kind, urgent, state: State::New }
    }

    /// Operations that are not answered.
    pub fn len(&self) -> usize {
        self.table().waiting
    }

    /// Whether all operations are answered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the answers out of a report's events, and leaves those of streams. `wakers` is for those who wait, and is
    /// empty again afterwards. Returns operations that were ended because the worker broke their rules: which it must
    /// be ordered to cancel.
    pub(super) fn deliver(&self, events: &mut Vec<StreamEvent>, wakers: &mut Vec<Waker>) -> Vec<RequestId> {
        let mut broken = Vec::new();
        if !events.iter().any(|event| is_operation(event.id)) {
            return broken;
        }
        let mut table = self.table();
        events.retain_mut(|event| {
            let id = event.id;
            if !is_operation(id) {
                return true;
            }
            // Cheap to leave in its place: the event is dropped.
            let kind = std::mem::replace(&mut event.kind, StreamEventKind::Prepared { prompt_tokens: 0 });
            let (answer, keeps_rules) = match kind {
                StreamEventKind::Answered(answer) => (Ok(answer), true),
                StreamEventKind::Failed(mut failure) => {
                    failure.shorten();
                    (Err(failure), true)
                }
                StreamEventKind::Prepared { .. }
                | StreamEventKind::Started { .. }
                | StreamEventKind::Delta(_)
                | StreamEventKind::Finished { .. } => (Err(not_an_answer()), false),
            };
            if table.answer(id, answer, wakers) && !keeps_rules {
                broken.push(id);
            }
            false
        });
        let idle = table.waiting == 0;
        drop(table);
        self.wake(wakers, idle);
        broken
    }

    /// Fails these operations alone: they could not be sent.
    pub(super) fn fail(&self, ids: &[RequestId], failure: &Failure) {
        let mut wakers = Vec::with_capacity(ids.len());
        let mut table = self.table();
        for id in ids {
            table.answer(*id, Err(failure.clone()), &mut wakers);
        }
        let idle = table.waiting == 0;
        drop(table);
        self.wake(&mut wakers, idle);
    }

    /// Refuses new operations with `failure`; those that are open go on. The first refusal stays.
    pub(super) fn close(&self, failure: Failure) {
        self.table().refusal.get_or_insert(failure);
    }

    /// Fails every operation, and refuses new ones. Returns those that it failed: a worker that is alive must be ordered
    /// to cancel them.
    pub(super) fn fail_all(&self, failure: Failure) -> Vec<RequestId> {
        let mut table = self.table();
        table.refusal.get_or_insert_with(|| failure.clone());
        let waiting = table.slots.iter().filter_map(|slot| match slot {
            Slot::Waiting { id, .. } => Some(*id),
            Slot::Free | Slot::Answered { .. } => None,
        });
        let ids: Vec<_> = waiting.collect();
        drop(table);
        self.fail(&ids, &failure);
        ids
    }

    /// Returns when all operations are answered. Only after [`Operations::close`] it stays so.
    pub(super) async fn idle(&self) {
        loop {
            // Asked for before the look, so that an end between the two is not missed.
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.is_empty() {
                return;
            }
            idle.await;
        }
    }

    fn wake(&self, wakers: &mut Vec<Waker>, idle: bool) {
        wakers.drain(..).for_each(Waker::wake);
        if idle {
            self.idle.notify_waiters();
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // No code panics while holding it, and the table is valid after every single operation.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// A slot for one that waits.
    fn enter(&mut self, waker: &Waker) -> Result<RequestId, Failure> {
        if let Some(failure) = &self.refusal {
            return Err(failure.clone());
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() == MAX_OPEN => return Err(too_many()),
            None => {
                self.slots.push(Slot::Free);
                self.slots.len() - 1
            }
        };
        self.begun += 1;
        let id = RequestId(OPERATION | (self.begun << SLOT_BITS) | slot as u64);
        self.slots[slot] = Slot::Waiting { id, waker: waker.clone() };
        self.waiting += 1;
        Ok(id)
    }

    /// Keeps the answer of `id` until it is fetched, and adds who waits for it to `wakers`. False if nobody does.
    fn answer(&mut self, id: RequestId, answer: Result<Answer, Failure>, wakers: &mut Vec<Waker>) -> bool {
        let Some(slot) = self.slots.get_mut(slot_of(id)) else { return false };
        match slot {
            Slot::Waiting { id: open, .. } if *open == id => {}
            Slot::Waiting { .. } | Slot::Answered { .. } | Slot::Free => return false,
        }
        if let Slot::Waiting { waker, .. } = std::mem::replace(slot, Slot::Answered { id, answer }) {
            wakers.push(waker);
        }
        self.waiting -= 1;
        true
    }

    /// The answer of `id`, or from now on `waker` is told of it.
    fn fetch(&mut self, id: RequestId, waker: &Waker) -> Poll<Result<Answer, Failure>> {
        match &mut self.slots[slot_of(id)] {
            Slot::Waiting { id: open, waker: known } if *open == id => {
                known.clone_from(waker);
                Poll::Pending
            }
            slot @ Slot::Answered { .. } => {
                let slot = std::mem::replace(slot, Slot::Free);
                self.give_back(id);
                match slot {
                    Slot::Answered { answer, id: answered } if answered == id => Poll::Ready(answer),
                    _ => Poll::Ready(Err(lost())),
                }
            }
            Slot::Waiting { .. } | Slot::Free => Poll::Ready(Err(lost())),
        }
    }

    /// Forgets `id`, which nobody waits for any more. True if it was not answered.
    fn leave(&mut self, id: RequestId) -> bool {
        let slot = std::mem::replace(&mut self.slots[slot_of(id)], Slot::Free);
        self.give_back(id);
        let waiting = matches!(slot, Slot::Waiting { .. });
        self.waiting -= usize::from(waiting);
        waiting
    }

    fn give_back(&mut self, id: RequestId) {
        self.free.push(slot_of(id));
        if self.free.len() == self.slots.len() && self.slots.len() > KEPT {
            self.slots = Vec::new();
            self.free = Vec::new();
        }
    }
}

impl<K: Borrow<OperationKind> + Unpin> Future for Operate<'_, K> {
    type Output = Result<Answer, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let result = match this.state {
            State::New => match this.send(cx.waker()) {
                Ok(id) => {
                    this.state = State::Sent(id);
                    return Poll::Pending;
                }
                Err(failure) => Err(failure),
            },
            State::Sent(id) => std::task::ready!(this.operations.table().fetch(id, cx.waker())),
            State::Done => Err(lost()),
        };
        this.state = State::Done;
        Poll::Ready(result)
    }
}

impl<K: Borrow<OperationKind>> Operate<'_, K> {
    fn send(&self, waker: &Waker) -> Result<RequestId, Failure> {
        let id = self.operations.table().enter(waker)?;
        self.outbox.push_operation(id, self.kind.borrow(), self.urgent).map_err(|error| {
            self.operations.table().leave(id);
            unsendable(error)
        })?;
        Ok(id)
    }
}

impl<K> Drop for Operate<'_, K> {
    fn drop(&mut self) {
        let State::Sent(id) = self.state else { return };
        let (cancel, idle) = {
            let mut table = self.operations.table();
            (table.leave(id), table.waiting == 0)
        };
        if cancel {
            self.outbox.push(Queued::Cancel(id));
            self.operations.wake(&mut Vec::new(), idle);
        }
    }
}

fn slot_of(id: RequestId) -> usize {
    (id.0 as usize) & (MAX_OPEN - 1)
}

fn not_an_answer() -> Failure {
    Failure {
        kind: FailureKind::Internal,
        param: None,
        message: "the worker answered an operation with events of a stream".into(),
    }
}

fn too_many() -> Failure {
    Failure {
        kind: FailureKind::Overloaded,
        param: None,
        message: format!("the worker has {MAX_OPEN} operations to do already; try again later"),
    }
}

/// A defect: the table never forgets an operation whose answer was not fetched.
fn lost() -> Failure {
    Failure {
        kind: FailureKind::Internal,
        param: None,
        message: "the operation was lost inside the gateway".into(),
    }
}

#[cfg(test)]
mod tests;
