//! Load on a running gateway, and what its clients see of it.
//!
//! One file is one experiment; each has its arguments and a report, which `kr-load` prints as JSON. `cargo xtask bench
//! gateway`, `cargo xtask bench serve` and `cargo xtask chaos` start what is measured, run `kr-load`, and make tables of
//! its reports. It is for measurements and tests only: no program of kr-serve links it.
//!
//! ```text
//! open_loop streams slow_readers cancels half_open     experiments
//! memory leaks chaos turns newcomer schemas
//! ask, prompts                                         what a client asks
//! client, streamed, sse, usage, answer                 what it sends and reads
//! pace, latency, growth, process, gateway              time, percentiles, what is seen from outside
//! ```

pub mod answer;
pub mod ask;
pub mod cancels;
pub mod chaos;
pub mod client;
pub mod gateway;
mod growth;
pub mod half_open;
pub mod latency;
pub mod leaks;
pub mod memory;
pub mod newcomer;
pub mod open_loop;
mod pace;
pub mod process;
pub mod prompts;
pub mod schemas;
pub mod slow_readers;
mod sse;
pub mod streamed;
pub mod streams;
pub mod turns;
pub mod usage;
