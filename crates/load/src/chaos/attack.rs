//! Killing and freezing workers.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, sleep_until};

use crate::{client::Client, gateway};

/// When to do what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) duration: Duration,
    pub(super) every: Duration,
    pub(super) random: bool,
    pub(super) freezes: u32,
}

/// How a worker is attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attack {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, for good: the gateway has to notice.
    Freeze,
}

/// When workers were attacked. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Attacks {
    times: Arc<Mutex<Vec<Instant>>>,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) kills: u32,
    pub(super) freezes: u32,
    pub(super) missed: u32,
}

/// How long an attack waits for a worker that is ready.
const WAIT: Duration = Duration::from_secs(2);

/// Between two looks for one.
const POLL: Duration = Duration::from_millis(20);

impl Plan {
    /// Moments, from the begin of the attacks, in order. The freezes are in the middle.
    pub(super) fn schedule(&self, seed: u64) -> Vec<(Duration, Attack)> {
        let mut random = fastrand::Rng::with_seed(seed);
        let count = (self.duration.as_secs_f64() / self.every.as_secs_f64().max(1e-3)).ceil() as u32;
        let count = count.saturating_sub(1).max(1);
        let mut times: Vec<Duration> = (1..=count)
            .map(|number| match self.random {
                true => self.duration.mul_f64(random.f64()),
                // A run that is shorter than the time between two attacks has one, in its middle.
                false if self.every < self.duration => self.every * number,
                false => self.duration / 2,
            })
            .collect();
        times.sort();
        let freezes = self.freezes.min(count);
        let first = (count - freezes) / 2;
        let frozen = first..first + freezes;
        let attack = |number: u32| if frozen.contains(&number) { Attack::Freeze } else { Attack::Kill };
        (0..).map(attack).zip(times).map(|(attack, time)| (time, attack)).collect()
    }
}

impl Attacks {
    /// Whether a worker was attacked after `moment`.
    pub(super) fn any_since(&self, moment: Instant) -> bool {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).last().is_some_and(|last| *last > moment)
    }

    fn note(&self) {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
    }
}

/// Attacks as planned, each time one of the workers that are ready.
pub(super) async fn run(
    client: Client,
    plan: Vec<(Duration, Attack)>,
    seed: u64,
    attacks: Attacks,
) -> Result<Outcome> {
    let mut random = fastrand::Rng::with_seed(seed.wrapping_add(1));
    let begin = tokio::time::Instant::now();
    let (mut outcome, mut frozen) = (Outcome::default(), HashSet::new());
    for (time, attack) in plan {
        sleep_until(begin + time).await;
        let Some(pid) = victim(&client, &frozen, &mut random).await? else {
            outcome.missed += 1;
            continue;
        };
        let signal = if attack == Attack::Kill { Signal::KILL } else { Signal::STOP };
        attacks.note();
        // It may have ended since: then there was nobody to attack.
        match (kill_process(pid, signal), attack) {
            (Err(_), _) => outcome.missed += 1,
            (Ok(()), Attack::Kill) => outcome.kills += 1,
            (Ok(()), Attack::Freeze) => {
                outcome.freezes += 1;
                frozen.insert(pid);
            }
        }
    }
    Ok(outcome)
}

/// A worker that is ready and was not frozen, for the gateway may not have noticed yet.
async fn victim(client: &Client, frozen: &HashSet<Pid>, random: &mut fastrand::Rng) -> Result<Option<Pid>> {
    let deadline = Instant::now() + WAIT;
    loop {
        let ready = gateway::ready_pids(client).await?;
        let pids = ready.into_iter().filter_map(|pid| Pid::from_raw(pid.try_into().ok()?));
        let ready: Vec<Pid> = pids.filter(|pid| !frozen.contains(pid)).collect();
        if let Some(pid) = random.choice(&ready) {
            return Ok(Some(*pid));
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan =
        Plan { duration: Duration::from_secs(60), every: Duration::from_secs(5), random: false, freezes: 1 };

    #[test]
    fn one_every_five_seconds_and_one_of_them_freezes() {
        let plan = PLAN.schedule(1);
        let times: Vec<u64> = plan.iter().map(|(time, _)| time.as_secs()).collect();
        assert_eq!(times, [5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55]);
        let frozen: Vec<_> = plan.iter().filter(|(_, attack)| *attack == Attack::Freeze).collect();
        assert_eq!(frozen, [&(Duration::from_secs(30), Attack::Freeze)]);
    }

    #[test]
    fn random_moments_are_as_many_in_order_and_repeated_by_a_seed() {
        let plan = Plan { random: true, freezes: 0, ..PLAN };
        let (one, same, other) = (plan.schedule(1), plan.schedule(1), plan.schedule(2));
        assert_eq!(one, same);
        assert_ne!(one, other);
        assert_eq!(one.len(), PLAN.schedule(1).len());
        assert!(one.is_sorted_by_key(|(time, _)| *time));
        assert!(one.iter().all(|(time, attack)| *time < plan.duration && *attack == Attack::Kill));
    }

    #[test]
    fn the_shortest_run_has_one_attack() {
        let plan = Plan { duration: Duration::from_secs(1), ..PLAN };
        assert_eq!(plan.schedule(1), [(Duration::from_millis(500), Attack::Freeze)]);
    }
}
