//! The neutral core between HTTP and the fleet: what is asked for, who may have it, and when.

pub mod admission;
