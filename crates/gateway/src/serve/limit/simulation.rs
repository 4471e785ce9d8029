//! The limit in a loop with a simple server, by a simulated clock: it settles, and does not oscillate.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{LimitSettings, WorkersLoad};
use crate::serve::{
    caller::Caller,
    gate::{Arrival, Arrived, Gate, Started},
    priority::Priority,
    queue::Bounds,
};

const STEP: Duration = Duration::from_millis(10);
const TARGET: Duration = Duration::from_secs(2);

/// A server that computes prompts one after the other, and answers side by side.
#[derive(Clone, Copy)]
struct Server {
    /// Tokens of prompts a second.
    prompt_rate: f64,
    /// Seconds for a token of every answer: alone, and more for each answer.
    step: (f64, f64),
    /// Sequences at a time.
    places: usize,
    /// Tokens whose keys and values it may hold.
    kv_capacity: f64,
}

/// What clients ask for.
#[derive(Clone, Copy)]
struct Demand {
    prompt: f64,
    answer: f64,
    load: Loop,
}

#[derive(Clone, Copy)]
enum Loop {
    /// So many clients, each of which asks again when it has its answer.
    Closed(usize),
    /// So many requests a second, at random, whatever becomes of them.
    Open(f64),
}

struct Job {
    started: Started,
    prompt: f64,
    answer: f64,
    held: f64,
}

struct World {
    server: Server,
    demand: Demand,
    gate: Gate<()>,
    jobs: VecDeque<Job>,
    now: Instant,
    random: u64,
    /// The limit, twice a second.
    limits: Vec<usize>,
    /// Seconds from admission to the first token.
    first_tokens: Vec<f64>,
    /// Most that was held, of what may be.
    kv: f64,
}

const FAST: Server =
    Server { prompt_rate: 1000.0, step: (0.02, 0.001), places: 1000, kv_capacity: f64::INFINITY };

/// Five prompts a second are what [`FAST`] can do.
const CHATS: Demand = Demand { prompt: 200.0, answer: 50.0, load: Loop::Closed(60) };

impl World {
    fn new(server: Server, demand: Demand) -> Self {
        let now = Instant::now();
        let settings = LimitSettings { min: 5, max: 50, start: 50, first_token_target: TARGET };
        let gate = Gate::new(Bounds { requests: 256, tokens: u64::MAX }, settings, now);
        let (limits, first_tokens) = (Vec::new(), Vec::new());
        let jobs = VecDeque::new();
        Self { server, demand, gate, jobs, now, random: 1, limits, first_tokens, kv: 0.0 }
    }

    fn run(&mut self, seconds: u64) -> &mut Self {
        let steps = seconds * 100;
        for n in 0..steps {
            self.arrive();
            self.compute();
            if n % 50 == 0 {
                let workers = self.workers();
                self.kv = self.kv.max(workers.kv);
                self.gate.tick(workers, self.now);
                self.limits.push(self.gate.occupancy().limit);
            }
            while let Some(grant) = self.gate.next(self.now) {
                self.start(grant.started);
            }
            self.now += STEP;
        }
        self
    }

    /// Forgets what was measured.
    fn settled(&mut self) -> &mut Self {
        self.limits.clear();
        self.first_tokens.clear();
        self
    }

    fn arrive(&mut self) {
        let count = match self.demand.load {
            Loop::Closed(clients) => {
                let occupancy = self.gate.occupancy();
                clients.saturating_sub(occupancy.running + occupancy.waiting)
            }
            Loop::Open(rate) => usize::from(self.chance() < rate * STEP.as_secs_f64()),
        };
        for _ in 0..count {
            let arrival =
                Arrival { caller: Caller::default(), priority: Priority::default(), tokens: 1, places: 1 };
            if let Arrived::Runs(started) = self.gate.arrive(arrival, (), self.now) {
                self.start(started);
            }
        }
    }

    /// From 0 to 1.
    fn chance(&mut self) -> f64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    fn start(&mut self, started: Started) {
        // From half to one and a half times the usual.
        let (a, b) = (0.5 + self.chance(), 0.5 + self.chance());
        let Demand { prompt, answer, .. } = self.demand;
        self.jobs.push_back(Job { started, prompt: prompt * a, answer: answer * b, held: 0.0 });
    }

    fn compute(&mut self) {
        let Server { prompt_rate, step: (alone, more), places, .. } = self.server;
        let mut prompts = prompt_rate * STEP.as_secs_f64();
        let answering = self.jobs.iter().take(places).filter(|job| job.prompt <= 0.0).count();
        let tokens = STEP.as_secs_f64() / (alone + more * answering as f64);
        for job in self.jobs.iter_mut().take(places) {
            if job.prompt > 0.0 {
                let computed = job.prompt.min(prompts);
                prompts -= computed;
                job.prompt -= computed;
                job.held += computed;
                if job.prompt <= 0.0 {
                    let took = self.now - job.started.at;
                    self.first_tokens.push(took.as_secs_f64());
                    self.gate.first_token(job.started, job.held as u32, self.now);
                }
            } else {
                job.answer -= tokens;
                job.held += tokens;
            }
        }
        let before = self.jobs.len();
        self.jobs.retain(|job| job.answer > 0.0);
        (self.jobs.len()..before).for_each(|_| self.gate.finish(true, self.now));
    }

    fn workers(&self) -> WorkersLoad {
        let held: f64 = self.jobs.iter().map(|job| job.held).sum();
        WorkersLoad {
            kv: held / self.server.kv_capacity,
            queued: self.jobs.len().saturating_sub(self.server.places),
            memory: 0.0,
        }
    }

    /// Least and largest limit.
    fn range(&self) -> (usize, usize) {
        let limits = || self.limits.iter().copied();
        (limits().min().unwrap_or_default(), limits().max().unwrap_or_default())
    }

    fn median_first_token(&self) -> f64 {
        let mut sorted = self.first_tokens.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    /// Times that it sank or rose after it had done the opposite.
    fn turns(&self) -> usize {
        let steps: Vec<_> =
            self.limits.windows(2).filter(|two| two[0] != two[1]).map(|two| two[1] > two[0]).collect();
        steps.windows(2).filter(|two| two[0] != two[1]).count()
    }
}

#[test]
fn in_a_closed_loop_it_settles_where_first_tokens_are_in_time() {
    for clients in [30, 60, 200] {
        let mut world = World::new(FAST, Demand { load: Loop::Closed(clients), ..CHATS });
        world.run(60).settled().run(600);
        let (least, most) = world.range();
        assert!(least >= 10 && most <= 25, "{clients} clients: {least} to {most}");
        assert!(most - least <= 4, "{clients} clients: {least} to {most}");
        assert!(world.turns() <= 12, "{clients} clients: {:?}", world.limits);
        let median = world.median_first_token();
        assert!((0.8..2.6).contains(&median), "{clients} clients: {median} s");
    }
}

#[test]
fn in_an_open_loop_beyond_capacity_it_settles_there_too() {
    for rate in [7.0, 15.0] {
        let mut world = World::new(FAST, Demand { load: Loop::Open(rate), ..CHATS });
        world.run(60).settled().run(600);
        let (least, most) = world.range();
        assert!(least >= 10 && most <= 25, "{rate}/s: {least} to {most}");
        assert!(most - least <= 4, "{rate}/s: {least} to {most}");
        assert!(world.turns() <= 12, "{rate}/s: {:?}", world.limits);
    }
}

#[test]
fn a_load_that_the_server_bears_changes_nothing() {
    for rate in [0.1, 1.0, 4.0] {
        let mut world = World::new(FAST, Demand { load: Loop::Open(rate), ..CHATS });
        world.run(600);
        assert_eq!(world.range(), (50, 50), "{rate}/s");
    }
}

#[test]
fn a_slow_server_with_long_prompts_is_not_throttled_for_their_length() {
    // Each prompt takes eight seconds alone, and there is time for all of them.
    let slow = Server { prompt_rate: 250.0, ..FAST };
    let mut world = World::new(slow, Demand { prompt: 2000.0, answer: 50.0, load: Loop::Open(0.05) });
    world.run(1200);
    assert_eq!(world.range(), (50, 50));
}

#[test]
fn it_finds_the_places_of_the_workers() {
    let few = Server { places: 16, prompt_rate: 100_000.0, ..FAST };
    let mut world = World::new(few, CHATS);
    world.run(60).settled().run(600);
    let (least, most) = world.range();
    assert!(least >= 15 && most <= 18, "{least} to {most}");
    // Once a minute it looks whether there are more.
    assert!(world.turns() <= 40, "{:?}", world.limits);
}

#[test]
fn keys_and_values_fit_after_seconds_and_the_limit_recovers_slowly_when_they_are_short_again() {
    // Forty long sequences fill it.
    let small = Server { prompt_rate: 100_000.0, kv_capacity: 40_000.0, ..FAST };
    let long = Demand { prompt: 900.0, answer: 200.0, load: Loop::Closed(60) };
    let mut world = World::new(small, long);
    world.run(5);
    assert!(world.limits.last().is_some_and(|limit| *limit <= 45), "{:?}", world.limits);
    world.run(55).settled();
    world.kv = 0.0;
    world.run(600);
    assert!(world.kv <= 1.0, "{} of it is held", world.kv);
    let (least, most) = world.range();
    assert!(least >= 25 && most <= 40 && most - least <= 8, "{least} to {most}");
    // Short ones leave room for all.
    world.demand = Demand { prompt: 100.0, answer: 100.0, ..long };
    world.settled().run(300);
    let back = world.limits.iter().position(|limit| *limit == 50);
    assert!(back.is_some_and(|ticks| (10..240).contains(&ticks)), "after {back:?} half seconds");
}
