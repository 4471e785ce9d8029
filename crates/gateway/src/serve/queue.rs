//! The wait queue: bounded, fair between callers, and with priorities. Pure.
//!
//! **Between callers** it is start-time fair queueing (Goyal, Vin and Cheng, 1996). Work is measured in tokens, as far
//! as they can be told before. Every caller that waits has a *start tag*: how much work has been done for it, on a
//! common scale, the virtual time. The one with the least is next, and its tag grows by the work of what is served. So
//! callers who wait get equal shares of the work, however many requests each of them has, and one that was away begins
//! where the others are: it neither saves up shares nor owes any.
//!
//! **Priorities** order what one caller has waiting. Between callers they are a head start: a level is worth
//! [`HEAD_START`] tokens of work, up to [`MAX_LEVELS`] levels. So what is urgent goes first, but calling everything
//! urgent gives nobody a larger share. **Nothing starves**: the virtual time passes any head start, and each
//! [`OLDEST_EVERY`]th request of a caller is the one that waits longest, whatever its priority.
//!
//! **When it is full**, a caller who has less of the queue than the one who has most of it takes a place from that one,
//! whose latest and least urgent request is turned away. A client alone can't keep others out by filling the queue.

use std::collections::{BTreeMap, HashMap};

use super::{caller::Caller, priority::Priority};

/// Work, in tokens, by which a level of priority is ahead of the next one of other callers.
pub(super) const HEAD_START: u64 = 16_384;

/// Levels above and below the normal one that make a difference to other callers.
pub(super) const MAX_LEVELS: i32 = 4;

/// Of so many requests of a caller, one is the one that has waited longest.
pub(super) const OLDEST_EVERY: u32 = 8;

/// Callers remembered although nothing of theirs waits.
const MAX_IDLE: usize = 1024;

/// What may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Requests.
    pub(super) requests: usize,
    /// Their work in tokens; one request may always wait.
    pub(super) tokens: u64,
}

/// What waits, and what may be served next.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    bounds: Bounds,
    flows: HashMap<Caller, Flow<T>>,
    waiting: usize,
    /// Work of what waits.
    tokens: u64,
    /// The least start tag of the callers who wait, or of the last one that was served.
    virtual_time: u64,
    /// Number of the last entry.
    last: u64,
}

/// The requests of one caller.
#[derive(Debug)]
struct Flow<T> {
    /// By priority, then by arrival.
    entries: BTreeMap<(Priority, u64), Entry<T>>,
    /// The priorities of the same, by arrival.
    arrivals: BTreeMap<u64, Priority>,
    /// Work of what waits.
    tokens: u64,
    /// The start tag, while something waits.
    start: u64,
    /// What the start tag will be at least when something waits again.
    finish: u64,
    /// Served since the one that had waited longest was.
    since_oldest: u32,
}

#[derive(Debug)]
struct Entry<T> {
    item: T,
    tokens: u64,
}

/// Names an entry, to take it out again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    caller: Caller,
    priority: Priority,
    number: u64,
}

/// What became of what was to wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed<T> {
    /// It waits. These had to make room within a bound, and wait no longer.
    Waits(Ticket, Vec<(T, Bound)>),
    /// The queue is full.
    Full(Bound),
}

/// Which bound is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The number of requests.
    Requests,
    /// Their work in tokens.
    Tokens,
}

impl<T> FairQueue<T> {
    /// An empty one.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, flows: HashMap::new(), waiting: 0, tokens: 0, virtual_time: 0, last: 0 }
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Work of what waits.
    pub(super) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// What may wait.
    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Changes what may wait from now on. What waits already stays.
    pub(super) fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// Counts work for a caller who need not wait for it.
    pub(super) fn pass(&mut self, caller: &Caller, tokens: u64) {
        let virtual_time = self.virtual_time;
        let flow = self.flow(caller);
        let start = if flow.is_idle() { flow.finish.max(virtual_time) } else { flow.start };
        flow.start = start.saturating_add(tokens.max(1));
        flow.finish = flow.start;
        self.advance(start);
        self.forget_idle();
    }

    /// Lets a request wait, if there is room or if room can be made.
    pub(super) fn push(&mut self, caller: Caller, priority: Priority, tokens: u64, item: T) -> Pushed<T> {
        let tokens = tokens.max(1);
        let evicted = match self.make_room(&caller, tokens) {
            Ok(evicted) => evicted,
            Err(bound) => return Pushed::Full(bound),
        };
        self.last += 1;
        let (number, virtual_time) = (self.last, self.virtual_time);
        let flow = self.flow(&caller);
        if flow.is_idle() {
            flow.start = flow.finish.max(virtual_time);
        }
        flow.entries.insert((priority, number), Entry { item, tokens });
        flow.arrivals.insert(number, priority);
        flow.tokens += tokens;
        self.waiting += 1;
        self.tokens += tokens;
        Pushed::Waits(Ticket { caller, priority, number }, evicted)
    }

    /// What is to be served next.
    pub(super) fn peek(&self) -> Option<&T> {
        let flow = self.flows.values().filter(|flow| !flow.is_idle()).min_by_key(|flow| flow.rank())?;
        flow.entries.get(&flow.head()?).map(|entry| &entry.item)
    }

    /// Takes out what is to be served next.
    pub(super) fn pop(&mut self) -> Option<T> {
        let busy = || self.flows.iter().filter(|(_, flow)| !flow.is_idle());
        let least = busy().map(|(_, flow)| flow.start).min()?;
        let caller = busy().min_by_key(|(_, flow)| flow.rank()).map(|(caller, _)| caller.clone())?;
        self.advance(least);
        let flow = self.flows.get_mut(&caller)?;
        let head = flow.head()?;
        let oldest = flow.arrivals.first_key_value().is_some_and(|(number, _)| *number == head.1);
        flow.since_oldest = if oldest { 0 } else { flow.since_oldest + 1 };
        let Entry { item, tokens } = self.take(&caller, head)?;
        if let Some(flow) = self.flows.get_mut(&caller) {
            flow.start = flow.start.saturating_add(tokens);
            flow.finish = flow.start;
        }
        self.forget_idle();
        Some(item)
    }

    /// Takes out what waits no longer. `None` if it is not there any more.
    pub(super) fn remove(&mut self, ticket: &Ticket) -> Option<T> {
        let Entry { item, .. } = self.take(&ticket.caller, (ticket.priority, ticket.number))?;
        self.forget_idle();
        Some(item)
    }

    /// Takes out everything.
    pub(super) fn drain(&mut self) -> Vec<T> {
        self.waiting = 0;
        self.tokens = 0;
        let entries = self.flows.drain().flat_map(|(_, flow)| flow.entries.into_values());
        entries.map(|entry| entry.item).collect()
    }

    /// Takes out what has to go so that a request of `caller` fits: of the one who has most of the queue, as long as that
    /// one keeps as much of it as `caller` gets.
    fn make_room(&mut self, caller: &Caller, tokens: u64) -> Result<Vec<(T, Bound)>, Bound> {
        let requests_over = (self.waiting + 1).saturating_sub(self.bounds.requests);
        let tokens_over = match self.waiting {
            0 => 0,
            _ => self.tokens.saturating_add(tokens).saturating_sub(self.bounds.tokens),
        };
        let mine = self.flows.get(caller);
        let (my_requests, my_tokens) = mine.map_or((0, 0), |flow| (flow.entries.len(), flow.tokens));
        let (bound, most) = match (requests_over, tokens_over) {
            (0, 0) => return Ok(Vec::new()),
            (0, _) => (Bound::Tokens, self.flows.iter().max_by_key(|(_, flow)| flow.tokens)),
            _ => (Bound::Requests, self.flows.iter().max_by_key(|(_, flow)| flow.entries.len())),
        };
        let has_more = |flow: &Flow<T>| {
            (requests_over == 0 || flow.entries.len() > my_requests + requests_over)
                && (tokens_over == 0 || flow.tokens >= my_tokens + tokens + tokens_over)
        };
        let Some((greedy, flow)) = most.filter(|(_, flow)| has_more(flow)) else { return Err(bound) };
        let mut freed = 0;
        let enough = |(requests, entry): &(usize, &Entry<T>)| {
            let more = *requests < requests_over || freed < tokens_over;
            freed += entry.tokens;
            more
        };
        let count = flow.entries.values().rev().enumerate().take_while(enough).count();
        let greedy = greedy.clone();
        Ok((0..count).filter_map(|_| Some((self.evict(&greedy)?, bound))).collect())
    }

    /// Takes out the latest and least urgent request of a caller.
    fn evict(&mut self, caller: &Caller) -> Option<T> {
        let key = self.flows.get(caller)?.entries.last_key_value().map(|(key, _)| *key)?;
        self.take(caller, key).map(|entry| entry.item)
    }

    fn take(&mut self, caller: &Caller, key: (Priority, u64)) -> Option<Entry<T>> {
        let flow = self.flows.get_mut(caller)?;
        let entry = flow.entries.remove(&key)?;
        flow.arrivals.remove(&key.1);
        flow.tokens -= entry.tokens;
        self.waiting -= 1;
        self.tokens -= entry.tokens;
        Some(entry)
    }

    fn flow(&mut self, caller: &Caller) -> &mut Flow<T> {
        self.flows.entry(caller.clone()).or_default()
    }

    fn advance(&mut self, to: u64) {
        self.virtual_time = self.virtual_time.max(to);
    }

    /// What was done for a caller who is away counts until the others have had as much.
    fn forget_idle(&mut self) {
        let virtual_time = self.virtual_time;
        self.flows.retain(|_, flow| !flow.is_idle() || flow.finish > virtual_time);
        if self.flows.len() > MAX_IDLE {
            self.flows.retain(|_, flow| !flow.is_idle());
        }
    }
}

impl<T> Flow<T> {
    fn is_idle(&self) -> bool {
        self.entries.is_empty()
    }

    /// Priority and number of what it serves next.
    fn head(&self) -> Option<(Priority, u64)> {
        if self.since_oldest + 1 >= OLDEST_EVERY {
            return self.arrivals.first_key_value().map(|(number, priority)| (*priority, *number));
        }
        self.entries.first_key_value().map(|(key, _)| *key)
    }

    /// The least is served next. Of two equal ones, the one that came first.
    fn rank(&self) -> (i128, u64) {
        let (Priority(level), number) = self.head().unwrap_or_default();
        let level = level.clamp(-MAX_LEVELS, MAX_LEVELS);
        (i128::from(self.start) + i128::from(level) * i128::from(HEAD_START), number)
    }
}

impl<T> Default for Flow<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            tokens: 0,
            start: 0,
            finish: 0,
            since_oldest: 0,
        }
    }
}

#[cfg(test)]
mod tests;
