//! What the workers and the machine bear, looked at twice a second.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use protocol::message::Heartbeat;
use sysinfo::System;
use tokio::time::{MissedTickBehavior, interval};

use super::{Admission, places::Places};
use crate::{fleet::ModelRegistry, serve::limit::WorkersLoad};

/// About as often as workers report.
const INTERVAL: Duration = Duration::from_millis(500);

impl Admission {
    /// Lets the limits follow what the workers in `registry` report, until nobody has this admission any more.
    pub fn watch(&self, registry: Arc<ModelRegistry>) -> impl Future<Output = ()> + use<> {
        let places = Arc::downgrade(&self.places);
        async move { watch(&places, &registry).await }
    }
}

async fn watch(places: &Weak<Places>, registry: &ModelRegistry) {
    // Where the system is not known, its memory is not.
    let mut system = System::new().ok();
    let mut interval = interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let Some(places) = places.upgrade() else { return };
        let resident = registry.links().iter().map(|link| link.heartbeat().memory_bytes).sum();
        let memory = memory_share(resident, system.as_mut().and_then(available_memory));
        places.tick(|model| Some(load_of(&registry.heartbeats(model)?, memory)));
    }
}

/// What the workers' reports say together.
fn load_of(heartbeats: &[Heartbeat], memory: f64) -> WorkersLoad {
    let sum = |value: fn(&Heartbeat) -> u64| heartbeats.iter().map(value).sum::<u64>();
    let (held, capacity) = (sum(|it| it.kv_tokens), sum(|it| it.kv_capacity));
    WorkersLoad {
        kv: if capacity == 0 { 0.0 } else { held as f64 / capacity as f64 },
        queued: sum(|it| it.waiting.into()) as usize,
        memory,
    }
}

/// How much the workers have of what they could have: what they have, and what is left. Weights of several workers of
/// one model are counted for each of them, although they share the pages. 0 if it is not known.
fn memory_share(resident: u64, available: Option<u64>) -> f64 {
    match available {
        Some(available) if resident > 0 => resident as f64 / (resident as f64 + available as f64),
        _ => 0.0,
    }
}

/// Memory that the machine, or the container, has left. `None` where the system does not tell.
fn available_memory(system: &mut System) -> Option<u64> {
    system.refresh_memory();
    let machine = system.available_memory();
    let container = system.cgroup_limits().filter(|limits| limits.total_memory < system.total_memory());
    // What it has free does not count files, which can go at any time, as mapped weights can.
    let free = container.map(|limits| limits.total_memory.saturating_sub(limits.rss));
    let available = free.map_or(machine, |free| free.min(machine));
    (system.total_memory() > 0).then_some(available)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn reports_of_several_workers_are_one_load() {
        let of = |kv_tokens, kv_capacity, waiting| Heartbeat {
            kv_tokens,
            kv_capacity,
            waiting,
            ..Heartbeat::default()
        };
        let expected = WorkersLoad { kv: 0.25, queued: 5, memory: 0.5 };
        assert_eq!(load_of(&[of(40, 100, 2), of(10, 100, 3)], 0.5), expected);
        assert_eq!(load_of(&[Heartbeat::default()], 0.0), WorkersLoad::default());
        assert_eq!(load_of(&[], 0.0), WorkersLoad::default());
    }

    #[test]
    fn what_is_not_known_is_no_pressure() {
        assert_eq!(memory_share(0, Some(100)), 0.0);
        assert_eq!(memory_share(100, None), 0.0);
        assert_eq!(memory_share(300, Some(100)), 0.75);
    }

    #[test]
    fn this_machine_has_memory_left() {
        let mut system = System::new().unwrap();
        let available = available_memory(&mut system).unwrap();
        assert!((1..=system.total_memory().max(1)).contains(&available), "{available}");
    }
}
