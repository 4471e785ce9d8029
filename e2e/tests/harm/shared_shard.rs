//! A shard that two models share survives the eviction of one.
