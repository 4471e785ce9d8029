//! What waits for preparation. Pure: bounded in number and in bytes, in two lanes, so that a short prompt never
//! waits behind long ones.

use std::collections::VecDeque;

use protocol::ids::RequestId;

/// Requests that may wait. The gateway admits far fewer streams and operations than this.
pub(super) const MAX_QUEUED: usize = 4096;

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
    requests: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Entry<T> {
    /// The request that can be taken out; `None` for several that are one job.
    id: Option<RequestId>,
    size: Size,
    item: T,
}

/// What a job has in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) requests: usize,
    pub(super) bytes: usize,
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
        Self { short: VecDeque::new(), long: VecDeque::new(), requests: 0, bytes: 0 }
    }
}

impl<T> Lanes<T> {
    /// Lets a job wait. Only one with an `id` can be taken out by [`Lanes::remove`].
    pub(super) fn push(&mut self, id: Option<RequestId>, size: Size, item: T) -> Result<(), Full> {
        if self.requests + size.requests > MAX_QUEUED {
            return Err(Full::Count);
        }
        if self.requests > 0 && self.bytes.saturating_add(size.bytes) > MAX_QUEUED_BYTES {
            return Err(Full::Bytes);
        }
        let lane = if size.bytes > LONG { &mut self.long } else { &mut self.short };
        lane.push_back(Entry { id, size, item });
        self.requests += size.requests;
        self.bytes = self.bytes.saturating_add(size.bytes);
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

    fn release(&mut self, entry: Entry<T>) -> T {
        self.requests -= entry.size.requests;
        self.bytes = self.bytes.saturating_sub(entry.size.bytes);
        entry.item
    }
}

fn remove<T>(lane: &mut VecDeque<Entry<T>>, id: RequestId) -> Option<Entry<T>> {
    let place = lane.iter().position(|entry| entry.id == Some(id))?;
    lane.remove(place)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    /// One request of `bytes`.
    fn push<T>(lanes: &mut Lanes<T>, id: u64, bytes: usize, item: T) -> Result<(), Full> {
        lanes.push(Some(RequestId(id)), Size { requests: 1, bytes }, item)
    }

    #[test]
    fn several_requests_of_one_job_count_as_several() {
        let mut lanes = Lanes::default();
        let size = Size { requests: MAX_QUEUED - 1, bytes: 10 };
        lanes.push(None, size, 1).unwrap();
        assert_eq!(lanes.push(None, Size { requests: 2, bytes: 10 }, 2), Err(Full::Count));
        push(&mut lanes, 7, 1, 3).unwrap();
        assert_eq!(lanes.take(Takes::Short), Some(1));
        lanes.push(None, size, 4).unwrap();
        assert_eq!(lanes.remove(RequestId(7)), Some(3));
        assert_eq!((lanes.requests, lanes.bytes), (size.requests, size.bytes));
    }

    #[test]
    fn a_short_request_passes_long_ones() {
        let mut lanes = Lanes::default();
        for n in 0..3 {
            push(&mut lanes, n, LONG + 1, n).unwrap();
        }
        assert_eq!(lanes.take(Takes::Short), None, "long requests leave a thread to the short ones");
        push(&mut lanes, 3, LONG, 3).unwrap();
        assert_eq!(lanes.take(Takes::Short), Some(3));
        push(&mut lanes, 4, 1, 4).unwrap();
        let rest: Vec<u64> = std::iter::from_fn(|| lanes.take(Takes::Any)).collect();
        assert_eq!(rest, [0, 1, 2, 4]);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut lanes = Lanes::default();
        push(&mut lanes, 0, MAX_QUEUED_BYTES + 1, ()).unwrap();
        assert_eq!(push(&mut lanes, 1, 1, ()), Err(Full::Bytes));
        assert_eq!(lanes.remove(RequestId(0)), Some(()));
        for n in 0..MAX_QUEUED as u64 {
            push(&mut lanes, n, 1, ()).unwrap();
        }
        assert_eq!(push(&mut lanes, 9_999, 0, ()), Err(Full::Count));
        assert_eq!(lanes.remove(RequestId(9_999)), None);
        assert_eq!(lanes.remove(RequestId(7)), Some(()));
        push(&mut lanes, 9_999, 0, ()).unwrap();
    }

    proptest! {
        #[test]
        fn bytes_are_counted_exactly(
            steps in prop::collection::vec((0_u8..4, 0_u64..20, 0_usize..2 * LONG), 0..200),
        ) {
            let mut lanes = Lanes::default();
            let mut waiting: Vec<(u64, usize)> = Vec::new();
            for (step, id, bytes) in steps {
                let taken = match step {
                    0 => lanes.take(Takes::Short),
                    1 => lanes.take(Takes::Any),
                    2 => lanes.remove(RequestId(id)),
                    _ => {
                        let new = waiting.iter().all(|&(other, _)| other != id);
                        if new && push(&mut lanes, id, bytes, id).is_ok() {
                            waiting.push((id, bytes));
                        }
                        None
                    }
                };
                waiting.retain(|&(other, _)| Some(other) != taken);
                prop_assert_eq!(lanes.requests, waiting.len());
                prop_assert_eq!(lanes.bytes, waiting.iter().map(|&(_, bytes)| bytes).sum::<usize>());
            }
        }
    }
}
