//! Bounds the number of connections, of all clients and of each.
//!
//! A connection on which nothing is being answered can be given up for another one: that is how silent clients
//! are kept from locking the others out. If all are busy, a few more are let in, for health checks.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::activity::{Activity, Phase};
use crate::config::Connections;

/// The places that connections take.
#[derive(Debug, Default)]
pub(super) struct Places {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    taken: HashMap<u64, Taken>,
    /// How many of them each client has.
    clients: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Taken {
    activity: Arc<Activity>,
    client: IpAddr,
}

/// A connection's place; given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) activity: Arc<Activity>,
    /// A limit was reached: only health checks are answered.
    pub(super) is_extra: bool,
    number: u64,
    places: Arc<Places>,
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    all: usize,
    /// Of one client; 0: [`PER_CLIENT`], and no limit for this machine itself.
    per_client: usize,
}

/// Connections beyond the limit of all, for health checks.
const EXTRA: usize = 16;
/// The same for the limit of one client.
const EXTRA_OF_CLIENT: usize = 2;
/// More than a proxy needs that all requests come through, and a tenth of what a process can have.
const PER_CLIENT: usize = 1024;

impl Bounds {
    /// What `limits` say, of the connections that `fit` into the process.
    pub(super) fn of(limits: &Connections, fit: usize) -> Self {
        let all = match limits.max_connections {
            0 => fit,
            configured => configured.min(fit),
        };
        Self { all: all.max(1), per_client: limits.max_connections_per_address }
    }

    fn of_client(&self, client: IpAddr) -> usize {
        match self.per_client {
            0 if client.is_loopback() => usize::MAX - EXTRA_OF_CLIENT,
            0 => PER_CLIENT,
            configured => configured,
        }
    }
}

impl Places {
    /// A place for one more connection of `address`; `None` if there are far too many.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr, bounds: Bounds) -> Option<Place> {
        let client = client_of(address);
        let most = bounds.of_client(client);
        let mut table = self.table();
        if table.count(client) >= most {
            table.evict_idle(Some(client));
        }
        if table.taken.len() >= bounds.all {
            table.evict_idle(None);
        }
        let (all, own) = (table.taken.len(), table.count(client));
        if all >= bounds.all + EXTRA || own >= most + EXTRA_OF_CLIENT {
            return None;
        }
        let is_extra = all >= bounds.all || own >= most;
        let (number, activity) = table.add(client);
        Some(Place { activity, is_extra, number, places: Arc::clone(self) })
    }

    /// Tells the connection that has waited longest for its client to end.
    pub(super) fn evict_idle(&self) {
        self.table().evict_idle(None);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn count(&self, client: IpAddr) -> usize {
        self.clients.get(&client).copied().unwrap_or_default()
    }

    fn add(&mut self, client: IpAddr) -> (u64, Arc<Activity>) {
        let (number, activity) = (self.next, Arc::new(Activity::new()));
        self.next += 1;
        self.taken.insert(number, Taken { activity: Arc::clone(&activity), client });
        *self.clients.entry(client).or_default() += 1;
        (number, activity)
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Activity>> {
        let Taken { activity, client } = self.taken.remove(&number)?;
        if let Some(count) = self.clients.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(&client);
            }
        }
        Some(activity)
    }

    /// Of all connections, or of those of one client. Its place is free at once; its descriptor a moment later.
    fn evict_idle(&mut self, of: Option<IpAddr>) {
        let candidates =
            self.taken.iter().filter(|(_, taken)| of.is_none_or(|client| client == taken.client));
        let waiting = candidates.map(|(number, taken)| (taken.activity.phase(), *number));
        let waiting = waiting.filter(|((phase, _), _)| *phase != Phase::Answering);
        // A body may be long in coming for good reasons.
        let oldest = waiting.min_by_key(|((phase, since), number)| (*phase == Phase::Body, *since, *number));
        if let Some(activity) = oldest.and_then(|(_, number)| self.remove(number)) {
            activity.evicted.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.table().remove(self.number);
    }
}

/// What counts as one client: with IPv6 everybody has a whole /64 network.
fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(it) if !it.is_loopback() => {
            Ipv6Addr::from_bits(it.to_bits() & !u128::from(u64::MAX)).into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    const HERE: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

    fn bounds(all: usize, per_client: usize) -> Bounds {
        Bounds { all, per_client }
    }

    fn address(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    fn is_evicted(place: &Place) -> bool {
        place.activity.evicted.notified().now_or_never().is_some()
    }

    /// A place of a connection on which something is being answered.
    fn busy(places: &Arc<Places>, address: IpAddr, bounds: Bounds) -> Option<Place> {
        let place = places.take(address, bounds)?;
        place.activity.enter(Phase::Answering);
        Some(place)
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_that_waited_longest_gives_its_place_up() {
        let places = Arc::new(Places::default());
        let take = || places.take(HERE, bounds(3, 0)).unwrap();
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
        let places = Arc::new(Places::default());
        let busy = || busy(&places, HERE, bounds(2, 0));
        let taken: Vec<_> = (0..2 + EXTRA).map(|_| busy().unwrap()).collect();
        assert_eq!(taken.iter().filter(|place| place.is_extra).count(), EXTRA);
        assert!(busy().is_none());
        drop(taken);
        assert!(!busy().unwrap().is_extra);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_with_many_connections_gives_up_its_own() {
        let places = Arc::new(Places::default());
        let bounds = bounds(100, 2);
        let other = places.take(address(2), bounds).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        let first = places.take(address(1), bounds).unwrap();
        let second = busy(&places, address(1), bounds).unwrap();
        let third = busy(&places, address(1), bounds).unwrap();
        assert!(!third.is_extra && is_evicted(&first) && !is_evicted(&other));
        let extra: Vec<_> =
            (0..EXTRA_OF_CLIENT).map(|_| busy(&places, address(1), bounds).unwrap()).collect();
        assert!(extra.iter().all(|place| place.is_extra));
        assert!(busy(&places, address(1), bounds).is_none());
        assert!(!busy(&places, address(3), bounds).unwrap().is_extra, "others have theirs");
        drop((second, third, extra));
        assert!(!busy(&places, address(1), bounds).unwrap().is_extra);
    }

    #[test]
    fn a_network_of_ipv6_is_one_client_and_this_machine_has_no_limit_by_default() {
        let of = |text: &str| client_of(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        let (default, set) = (bounds(1, 0), bounds(1, 7));
        assert_eq!((default.of_client(address(1)), set.of_client(address(1))), (PER_CLIENT, 7));
        for here in ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"] {
            assert!(default.of_client(of(here)) > 1 << 30, "{here}");
            assert_eq!(set.of_client(of(here)), 7);
        }
    }

    proptest! {
        /// Whatever comes and goes, the counts are those of what is there, and within the limits.
        #[test]
        fn counts_are_right(steps in prop::collection::vec((0..4_u8, any::<bool>(), 0..30_usize), 0..200)) {
            let places = Arc::new(Places::default());
            let mut held = Vec::new();
            for (client, comes, at) in steps {
                if comes {
                    held.extend(busy(&places, address(client), bounds(10, 4)));
                } else if at < held.len() {
                    held.swap_remove(at);
                }
                let table = places.table();
                prop_assert_eq!(table.taken.len(), held.len());
                prop_assert!(held.len() <= 10 + EXTRA);
                for client in 0..4 {
                    let own = table.taken.values().filter(|it| it.client == address(client)).count();
                    prop_assert_eq!(table.count(address(client)), own);
                    prop_assert!(own <= 4 + EXTRA_OF_CLIENT);
                }
                prop_assert!(table.clients.len() <= held.len());
            }
        }
    }
}
