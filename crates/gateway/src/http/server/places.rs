//! Bounds the number of connections.
//!
//! A connection on which nothing is being answered can be given up for another one: that is how silent clients
//! are kept from locking the others out. If all are busy, a few more are let in, for health checks.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::activity::{Activity, Phase};

/// The places that connections take.
#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    taken: HashMap<u64, Arc<Activity>>,
}

/// A connection's place; given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) activity: Arc<Activity>,
    /// The limit was reached: only health checks are answered.
    pub(super) is_extra: bool,
    number: u64,
    places: Arc<Places>,
}

/// Connections beyond the limit, for health checks.
const EXTRA: usize = 16;

impl Places {
    pub(super) fn new(max: usize) -> Self {
        Self { max: max.max(1), table: Mutex::default() }
    }

    /// A place for one more connection; `None` if there are far too many.
    pub(super) fn take(self: &Arc<Self>) -> Option<Place> {
        let mut table = self.table();
        if table.taken.len() >= self.max {
            table.evict_idle();
        }
        if table.taken.len() >= self.max + EXTRA {
            return None;
        }
        let is_extra = table.taken.len() >= self.max;
        let (number, activity) = (table.next, Arc::new(Activity::new()));
        table.next += 1;
        table.taken.insert(number, Arc::clone(&activity));
        Some(Place { activity, is_extra, number, places: Arc::clone(self) })
    }

    /// Tells the connection that has waited longest for its client to end.
    pub(super) fn evict_idle(&self) {
        self.table().evict_idle();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Its place is free at once; its descriptor a moment later.
    fn evict_idle(&mut self) {
        let waiting = self.taken.iter().map(|(number, activity)| (activity.phase(), *number));
        let waiting = waiting.filter(|((phase, _), _)| *phase != Phase::Answering);
        // A body may be long in coming for good reasons.
        let oldest = waiting.min_by_key(|((phase, since), number)| (*phase == Phase::Body, *since, *number));
        if let Some(activity) = oldest.and_then(|(_, number)| self.taken.remove(&number)) {
            activity.evicted.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.table().taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    fn is_evicted(place: &Place) -> bool {
        place.activity.evicted.notified().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_that_waited_longest_gives_its_place_up() {
        let places = Arc::new(Places::new(3));
        let take = || places.take().unwrap();
        let (body, head, answering) = (take(), take(), take());
        body.activity.enter(Phase::Body);
        head.activity.received();
        answering.activity.enter(Phase::Answering);
        tokio::time::advance(Duration::from_secs(1)).await;

        let fourth = take();
        assert!(!fourth.is_extra && is_evicted(&head) && !is_evicted(&body));
        let fifth = take();
        assert!(!fifth.is_extra && is_evicted(&fourth), "an idle one goes before one that sends a body");
        fifth.activity.enter(Phase::Answering);
        let sixth = take();
        assert!(!sixth.is_extra && is_evicted(&body) && !is_evicted(&answering));
    }

    #[tokio::test(start_paused = true)]
    async fn busy_connections_leave_a_few_places_for_health_checks() {
        let places = Arc::new(Places::new(2));
        let busy = || {
            let place = places.take()?;
            place.activity.enter(Phase::Answering);
            Some(place)
        };
        let taken: Vec<_> = (0..2 + EXTRA).map(|_| busy().unwrap()).collect();
        assert_eq!(taken.iter().filter(|place| place.is_extra).count(), EXTRA);
        assert!(busy().is_none());
        drop(taken);
        assert!(!busy().unwrap().is_extra);
    }
}
