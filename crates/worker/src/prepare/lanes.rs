//! What waits for preparation. Pure: bounded in number and in bytes, in two lanes, so that a short prompt never
//! waits behind long ones.

use std::collections::VecDeque;

use protocol::ids::RequestId;

/// Requests that may wait. The gateway admits far fewer streams than this.
pub(super) const MAX_QUEUED: usize = 1024;

/// Bytes of requests that may wait: several of the largest that the gateway accepts. One request always fits an
/// empty queue.
pub(super) const MAX_QUEUED_BYTES: usize = 64 << 20;

/// Requests of more bytes than this are long: they take tens of milliseconds and more.
pub(super) const LONG: usize = 64 << 10;

/// Waiting requests.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    short: VecDeque<Entry<T>>,
    long: VecDeque<Entry<T>>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry<T> {
    id: RequestId,
    bytes: usize,
    item: T,
}

/// Which requests a thread takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// Only short ones: there is always a thread for them.
    Short,
    /// Long ones, and short ones when no long one waits.
    Any,
}

/// Why a request can't wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    Count,
    Bytes,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { short: VecDeque::new(), long: VecDeque::new(), bytes: 0 }
    }
}

impl<T> Lanes<T> {
    /// Lets a request of `bytes` wait.
    pub(super) fn push(&mut self, id: RequestId, bytes: usize, item: T) -> Result<(), Full> {
        if self.len() >= MAX_QUEUED {
            return Err(Full::Count);
        }
        if self.len() > 0 && self.bytes.saturating_add(bytes) > MAX_QUEUED_BYTES {
            return Err(Full::Bytes);
        }
        let lane = if bytes > LONG { &mut self.long } else { &mut self.short };
        lane.push_back(Entry { id, bytes, item });
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(())
    }

    /// The next request for a thread; the earliest of its lane.
    pub(super) fn take(&mut self, takes: Takes) -> Option<T> {
        let entry = match takes {
            Takes::Short => self.short.pop_front(),
            Takes::Any => self.long.pop_front().or_else(|| self.short.pop_front()),
        }?;
        Some(self.release(entry))
    }

    /// Takes out a request that no longer has to be prepared; `None` if it does not wait here.
    pub(super) fn remove(&mut self, id: RequestId) -> Option<T> {
        let entry = remove(&mut self.short, id).or_else(|| remove(&mut self.long, id))?;
        Some(self.release(entry))
    }

    pub(super) fn len(&self) -> usize {
        self.short.len() + self.long.len()
    }

    fn release(&mut self, entry: Entry<T>) -> T {
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        entry.item
    }
}

fn remove<T>(lane: &mut VecDeque<Entry<T>>, id: RequestId) -> Option<Entry<T>> {
    let place = lane.iter().position(|entry| entry.id == id)?;
    lane.remove(place)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_short_request_passes_long_ones() {
        let mut lanes = Lanes::default();
        for n in 0..3 {
            lanes.push(RequestId(n), LONG + 1, n).unwrap();
        }
        assert_eq!(lanes.take(Takes::Short), None, "long requests leave a thread to the short ones");
        lanes.push(RequestId(3), LONG, 3).unwrap();
        assert_eq!(lanes.take(Takes::Short), Some(3));
        lanes.push(RequestId(4), 1, 4).unwrap();
        let rest: Vec<u64> = std::iter::from_fn(|| lanes.take(Takes::Any)).collect();
        assert_eq!(rest, [0, 1, 2, 4]);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut lanes = Lanes::default();
        lanes.push(RequestId(0), MAX_QUEUED_BYTES + 1, ()).unwrap();
        assert_eq!(lanes.push(RequestId(1), 1, ()), Err(Full::Bytes));
        assert_eq!(lanes.remove(RequestId(0)), Some(()));
        for n in 0..MAX_QUEUED as u64 {
            lanes.push(RequestId(n), 1, ()).unwrap();
        }
        assert_eq!(lanes.push(RequestId(9_999), 0, ()), Err(Full::Count));
        assert_eq!(lanes.remove(RequestId(9_999)), None);
        assert_eq!(lanes.remove(RequestId(7)), Some(()));
        lanes.push(RequestId(9_999), 0, ()).unwrap();
    }

    proptest! {
        #[test]
        fn bytes_are_counted_exactly(steps in prop::collection::vec((0_u8..4, 0_u64..20, 0_usize..2 * LONG), 0..200)) {
            let mut lanes = Lanes::default();
            let mut waiting: Vec<(u64, usize)> = Vec::new();
            for (step, id, bytes) in steps {
                let taken = match step {
                    0 => lanes.take(Takes::Short),
                    1 => lanes.take(Takes::Any),
                    2 => lanes.remove(RequestId(id)),
                    _ => {
                        if waiting.iter().all(|&(other, _)| other != id) && lanes.push(RequestId(id), bytes, id).is_ok() {
                            waiting.push((id, bytes));
                        }
                        None
                    }
                };
                waiting.retain(|&(other, _)| Some(other) != taken);
                prop_assert_eq!(lanes.len(), waiting.len());
                prop_assert_eq!(lanes.bytes, waiting.iter().map(|&(_, bytes)| bytes).sum::<usize>());
            }
        }
    }
}
