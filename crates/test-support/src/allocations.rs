//! An allocator that counts, for tests of how much memory something takes.
//!
//! ```ignore
//! #[global_allocator]
//! static ALLOCATOR: CountingAllocator = CountingAllocator;
//! ```
#![allow(
    unsafe_code,
    reason = "an allocator can't be written without; it passes everything on to the system's"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

/// The system's allocator. Counts for each thread: a test keeps what it measures on a thread of its own.
#[derive(Debug)]
pub struct CountingAllocator;

/// What one thread has allocated since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocations {
    /// How often memory was allocated or grown.
    pub count: u64,
    /// Bytes allocated less bytes freed.
    pub live: i64,
}

thread_local! {
    // Constant and without a destructor: using it allocates nothing.
    static COUNTS: Cell<Allocations> = const { Cell::new(Allocations { count: 0, live: 0 }) };
}

/// What the calling thread has allocated, if [`CountingAllocator`] is the program's allocator.
pub fn allocations() -> Allocations {
    COUNTS.get()
}

fn count(count: u64, bytes: i64) {
    // A thread that ends may still free memory.
    let _ = COUNTS.try_with(|counts| {
        let before = counts.get();
        counts.set(Allocations { count: before.count + count, live: before.live + bytes });
    });
}

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: the caller keeps to what `GlobalAlloc` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size as i64 - layout.size() as i64);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(0, -(layout.size() as i64));
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}
