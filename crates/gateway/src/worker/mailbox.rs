//! Where what a worker sends for one stream waits for its reader.
//!
//! Putting something in never waits: who puts in has to see to a bound. The memory of the queue is used again for as
//! long as the stream lives.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// A queue with one reader.
#[derive(Debug)]
pub(super) struct Mailbox<T> {
    queue: Mutex<Queue<T>>,
}

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<T>,
    /// Of the reader, while it waits.
    reader: Option<Waker>,
    /// Nothing more will come.
    closed: bool,
}

/// What became of an item that was put in.
#[derive(Debug)]
pub(super) struct Put {
    /// The reader, if it waits: to be woken.
    pub(super) reader: Option<Waker>,
    /// The queue had room: no memory was allocated.
    pub(super) reused: bool,
}

impl<T> Mailbox<T> {
    /// Empty.
    pub(super) fn new() -> Self {
        Self { queue: Mutex::new(Queue { items: VecDeque::new(), reader: None, closed: false }) }
    }

    /// Puts an item behind the others.
    pub(super) fn put(&self, item: T) -> Put {
        let mut queue = self.queue();
        let reused = queue.items.len() < queue.items.capacity();
        queue.items.push_back(item);
        Put { reader: queue.reader.take(), reused }
    }

    /// Says that nothing more will come.
    pub(super) fn close(&self) {
        let reader = {
            let mut queue = self.queue();
            queue.closed = true;
            queue.reader.take()
        };
        reader.into_iter().for_each(Waker::wake);
    }

    /// Whether nothing more will come.
    pub(super) fn is_closed(&self) -> bool {
        self.queue().closed
    }

    /// Takes the next item; `None` once nothing more will come.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut queue = self.queue();
        if let Some(item) = queue.items.pop_front() {
            return Poll::Ready(Some(item));
        }
        if queue.closed {
            return Poll::Ready(None);
        }
        match &mut queue.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
        // Right after every statement.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn events_come_in_order_and_the_end_after_the_last() {
        let mailbox = Mailbox::new();
        let mut cx = Context::from_waker(Waker::noop());
        for n in 0..3 {
            assert!(mailbox.put(n).reader.is_none(), "nobody waits");
        }
        mailbox.close();
        for n in 0..3 {
            assert_eq!(mailbox.poll_take(&mut cx), Poll::Ready(Some(n)));
        }
        assert_eq!(mailbox.poll_take(&mut cx), Poll::Ready(None));
    }

    #[test]
    fn a_reader_that_waits_is_woken_once_by_an_event_and_by_the_end() {
        let mailbox = Mailbox::new();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        assert!(mailbox.poll_take(&mut cx).is_pending() && mailbox.poll_take(&mut cx).is_pending());
        mailbox.put(1).reader.into_iter().for_each(Waker::wake);
        assert!(mailbox.put(2).reader.is_none(), "it has been told");
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        while mailbox.poll_take(&mut cx).is_ready() {}
        mailbox.close();
        assert_eq!((woken.0.load(Ordering::Relaxed), mailbox.poll_take(&mut cx)), (2, Poll::Ready(None)));
    }

    #[test]
    fn the_queue_is_used_again() {
        let mailbox = Mailbox::new();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(!mailbox.put(0).reused);
        for n in 0..1000 {
            assert!(mailbox.poll_take(&mut cx).is_ready());
            assert!(mailbox.put(n).reused);
        }
    }
}
