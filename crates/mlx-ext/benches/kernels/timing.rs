//! How long work takes, when nothing disturbs it.

use std::time::{Duration, Instant};

/// Time for the measurements of one row of a table.
const BUDGET: Duration = Duration::from_millis(1500);
/// Rounds of a measurement in any case, and at most.
const ROUNDS: (usize, usize) = (5, 200);
/// An argument of the program: one round of each, to see whether all works.
const QUICK: &str = "--quick";

/// The shortest time of each, in seconds, measured in turns: the speed of a shared machine changes by the second.
pub(crate) fn in_turns<const N: usize>(mut works: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut best = [f64::MAX; N];
    let begun = Instant::now();
    let (least, budget) = if is_quick() { (1, Duration::ZERO) } else { (ROUNDS.0, BUDGET) };
    let mut rounds = 0;
    while rounds < least || (rounds < ROUNDS.1 && begun.elapsed() < budget) {
        for (work, best) in works.iter_mut().zip(&mut best) {
            *best = best.min(once(work));
        }
        rounds += 1;
    }
    best
}

/// The shortest time in seconds of work that may be slow: after a slow first time that one counts.
pub(crate) fn patiently(mut work: impl FnMut()) -> f64 {
    let first = once(&mut work);
    let repetitions = if first > 0.5 || is_quick() { 0 } else { 4 };
    (0..repetitions).map(|_| once(&mut work)).fold(first, f64::min)
}

fn is_quick() -> bool {
    std::env::args().any(|argument| argument == QUICK)
}

fn once(work: &mut impl FnMut()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}
