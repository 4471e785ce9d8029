//! Places for operations: so many at a time for each worker of a model, and a bounded queue before them. Their own, so
//! that neither streams nor operations keep the others waiting.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{super::rejection::OperationRejection, metrics::OperationMetrics};
use crate::config::Operations;

/// The gates of all models.
#[derive(Debug)]
pub(super) struct Gates {
    settings: Operations,
    /// By model.
    open: Mutex<HashMap<String, Arc<Gate>>>,
    metrics: OperationMetrics,
}

#[derive(Debug)]
struct Gate {
    /// Given out in order of arrival.
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// The right to one operation; dropping it lets the next one in.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    /// A gate is forgotten when nobody has it.
    _gate: Arc<Gate>,
    metrics: OperationMetrics,
}

/// A place in the wait queue.
struct Waiting<'a> {
    gate: &'a Gate,
    metrics: &'a OperationMetrics,
}

impl Gates {
    pub(super) fn new(settings: Operations, metrics: OperationMetrics) -> Self {
        Self { settings, open: Mutex::default(), metrics }
    }

    /// A place for an operation of `model` at once, or after waiting in order of arrival. `workers` is asked for their
    /// number if nobody is at the model's gate.
    pub(super) async fn enter(
        &self,
        model: &str,
        workers: impl FnOnce() -> usize,
    ) -> Result<Place, OperationRejection> {
        let gate = self.gate(model, workers);
        let permits = Arc::clone(&gate.permits);
        let permit = match Arc::clone(&permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _waiting = self.queue_up(&gate)?;
                let longest = self.settings.wait_timeout;
                let late = OperationRejection::WaitedTooLong { waited: longest };
                // The semaphore is never closed.
                timeout(longest, permits.acquire_owned()).await.map_err(|_| late)?.map_err(|_| late)?
            }
        };
        self.metrics.running.inc();
        Ok(Place { _permit: permit, _gate: gate, metrics: self.metrics.clone() })
    }

    fn queue_up<'a>(&'a self, gate: &'a Gate) -> Result<Waiting<'a>, OperationRejection> {
        let max = self.settings.max_waiting;
        let enter = |waiting: usize| (waiting < max).then_some(waiting + 1);
        match gate.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter) {
            Ok(_) => {
                self.metrics.waiting.inc();
                Ok(Waiting { gate, metrics: &self.metrics })
            }
            Err(waiting) => Err(OperationRejection::QueueFull { waiting }),
        }
    }

    fn gate(&self, model: &str, workers: impl FnOnce() -> usize) -> Arc<Gate> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Models come and go, with any number of workers.
        open.retain(|_, gate| Arc::strong_count(gate) > 1);
        if let Some(gate) = open.get(model) {
            return Arc::clone(gate);
        }
        let permits = self.settings.max_in_flight.saturating_mul(workers().max(1));
        let permits = Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        let gate = Arc::new(Gate { permits, waiting: AtomicUsize::new(0) });
        open.insert(model.to_owned(), Arc::clone(&gate));
        gate
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.running.dec();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.gate.waiting.fetch_sub(1, Ordering::Relaxed);
        self.metrics.waiting.dec();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;
    use crate::metrics::MetricRegistry;

    fn gates(max_in_flight: usize, max_waiting: usize) -> Gates {
        let settings = Operations { max_in_flight, max_waiting, wait_timeout: Duration::from_secs(5) };
        Gates::new(settings, OperationMetrics::register(&mut MetricRegistry::new()))
    }

    #[tokio::test]
    async fn places_are_given_out_in_order_and_the_queue_is_bounded() {
        let gates = gates(1, 2);
        let enter = || Box::pin(gates.enter("m", || 2));
        let mut places: Vec<_> = (0..2).map(|_| enter().now_or_never().unwrap().unwrap()).collect();
        let (mut first, mut second) = (enter(), enter());
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        let full = OperationRejection::QueueFull { waiting: 2 };
        assert_eq!(enter().now_or_never().unwrap().unwrap_err(), full);
        assert_eq!((gates.metrics.running.get(), gates.metrics.waiting.get()), (2, 2));
        places.pop();
        assert!(second.as_mut().now_or_never().is_none(), "another one came before it");
        let place = first.now_or_never().unwrap().unwrap();
        drop(place);
        drop(second.now_or_never().unwrap().unwrap());
        assert!(gates.enter("other", || 1).now_or_never().unwrap().is_ok(), "each model has its own");
        drop(places);
        assert_eq!((gates.metrics.running.get(), gates.metrics.waiting.get()), (0, 0));
    }

    #[tokio::test]
    async fn a_model_that_comes_again_has_places_for_its_workers() {
        let gates = gates(1, 1);
        drop(gates.enter("m", || 1).await.unwrap());
        let places: Vec<_> = (0..4).map(|_| gates.enter("m", || 4).now_or_never().unwrap()).collect();
        assert!(places.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_longer_than_is_allowed_and_who_leaves_is_forgotten() {
        let gates = gates(1, 1);
        let place = gates.enter("m", || 1).await.unwrap();
        drop(Box::pin(gates.enter("m", || 1)).as_mut().now_or_never());
        let late = gates.enter("m", || 1).await.unwrap_err();
        assert_eq!(late, OperationRejection::WaitedTooLong { waited: Duration::from_secs(5) });
        assert_eq!(gates.metrics.waiting.get(), 0);
        drop(place);
        assert!(gates.enter("m", || 1).now_or_never().is_some());
    }
}
