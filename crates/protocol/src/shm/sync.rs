//! The one switch between the real atomics and the model checker's.

#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, fence};

pub(crate) use self::word::Word;

#[cfg(not(loom))]
mod word {
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Eight bytes of a ring's data, in memory order.
    ///
    /// Atomic although the indices already order all access, because a peer out of order may write at any
    /// time: with atomics that yields wrong bytes, which the checksum finds, and not undefined behaviour.
    /// A relaxed access is a plain move instruction.
    #[repr(transparent)]
    pub(crate) struct Word(AtomicU64);

    impl Word {
        pub(crate) fn new() -> Self {
            Self(AtomicU64::new(0))
        }

        pub(crate) fn load(&self) -> [u8; 8] {
            self.0.load(Ordering::Relaxed).to_ne_bytes()
        }

        pub(crate) fn store(&self, bytes: [u8; 8]) {
            self.0.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        }
    }
}

#[cfg(loom)]
#[allow(unsafe_code)]
mod word {
    use loom::cell::UnsafeCell;

    /// Eight bytes that must not be accessed by two threads at once: the model checker fails if they are, and
    /// so proves that the indices alone order all access.
    pub(crate) struct Word(UnsafeCell<[u8; 8]>);

    // SAFETY: the model checker tracks each access, and panics instead of letting two of them meet.
    unsafe impl Sync for Word {}

    impl Word {
        pub(crate) fn new() -> Self {
            Self(UnsafeCell::new([0; 8]))
        }

        pub(crate) fn load(&self) -> [u8; 8] {
            // SAFETY: the pointer is valid within the closure, and the cell panics if there is a writer.
            self.0.with(|bytes| unsafe { *bytes })
        }

        pub(crate) fn store(&self, bytes: [u8; 8]) {
            // SAFETY: the pointer is valid within the closure, and the cell panics if there is any other access.
            self.0.with_mut(|place| unsafe { *place = bytes });
        }
    }
}
