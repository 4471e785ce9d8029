//! A worker of a model that serves.

use protocol::message::{Heartbeat, ModelInfo};

use crate::{fleet::status::WorkerWork, worker::link::Link};

/// What a ready worker offers.
#[derive(Clone, Debug)]
pub(in crate::fleet) struct Service {
    pub(in crate::fleet) link: Link,
    pub(in crate::fleet) info: ModelInfo,
    /// The worker's process id, as it reported it.
    pub(in crate::fleet) pid: u32,
}

impl Service {
    /// What the worker reported about itself.
    pub(super) fn work(&self) -> WorkerWork {
        let Heartbeat {
            step,
            runnable,
            paused,
            waiting,
            kv_tokens,
            kv_capacity,
            memory_bytes,
            memory,
            time,
            ..
        } = self.link.heartbeat();
        let ModelInfo { load_micros, tokenizer_micros, .. } = self.info;
        WorkerWork {
            pid: self.pid,
            load_micros,
            tokenizer_micros,
            step,
            running: runnable,
            paused,
            waiting,
            kv_tokens,
            kv_capacity,
            memory_bytes,
            memory,
            time,
        }
    }
}
