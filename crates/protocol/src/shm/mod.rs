//! Shared memory: a [`Segment`] is a file that both processes map, with one ring for each direction.
//!
//! The peer may crash at any instruction, so nothing that it writes is believed: positions, lengths and
//! sums are checked, on copies. All unsafe code of this crate is below this module.

mod ring;
#[cfg(not(loom))]
mod runtime_dir;
#[cfg(not(loom))]
mod segment;
mod sync;

pub use ring::{Armed, Consumer, Producer, RingError, heap_ring};
#[cfg(not(loom))]
pub use runtime_dir::{NoRuntimeDir, RuntimeDir, runtime_dir};
#[cfg(not(loom))]
pub use segment::{Segment, SegmentError, Side};

#[cfg(any(test, fuzzing))]
pub(crate) use ring::{HeapRing, RingMemory};
