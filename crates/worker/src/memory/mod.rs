//! Memory: what a worker may use, and what it has.
//!
//! ```text
//! plan      the gateway's share, divided among weights, keys and values, and the rest
//! resident  what the system says that this process has
//! usage     what the heartbeat says about all of it
//! ```

mod plan;
mod resident;
mod usage;

pub use plan::MemoryPlan;
pub use resident::ResidentMemory;
pub use usage::MemoryUsage;
