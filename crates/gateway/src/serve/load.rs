//! How busy this server is, under the names by which load balancers read it of every model server.
//!
//! The Gateway API inference extension of Kubernetes chooses by these three gauges which of several servers gets a
//! request. It takes the first line of each and needs all of them: so they have no labels, and are always there.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::gauge::Gauge;

use super::admission::AdmissionMetrics;
use crate::{
    fleet::{ModelRegistry, WorkerWork},
    metrics::MetricRegistry,
};

/// The gauges, which are [updated](LoadMetrics::update) before they are shown. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct LoadMetrics {
    waiting: Gauge,
    running: Gauge,
    kv_usage: Gauge<f64, AtomicU64>,
}

/// How busy a server is.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Load {
    waiting: i64,
    running: i64,
    kv_usage: f64,
}

impl LoadMetrics {
    /// Registers them.
    pub fn register(registry: &mut MetricRegistry) -> Self {
        Self {
            waiting: registry.register_foreign(
                "vllm:num_requests_waiting",
                "Requests of all models that wait, in the gateway or in a worker",
                Gauge::default(),
            ),
            running: registry.register_foreign(
                "vllm:num_requests_running",
                "Requests of all models that are being computed",
                Gauge::default(),
            ),
            kv_usage: registry.register_foreign(
                "vllm:kv_cache_usage_perc",
                "Part of all workers' memory for keys and values that is in use, from 0 to 1",
                Gauge::default(),
            ),
        }
    }

    /// Sets them to what is so now.
    pub fn update(&self, admission: &AdmissionMetrics, models: &ModelRegistry) {
        let (queued, admitted) = (admission.queue_length.get(), admission.streams_open.get());
        let work: Vec<_> = models.workers().into_iter().filter_map(|worker| worker.work).collect();
        let Load { waiting, running, kv_usage } = load(queued, admitted, &work);
        self.waiting.set(waiting);
        self.running.set(running);
        self.kv_usage.set(kv_usage);
    }
}

/// From what the gateway knows itself, and what workers said in their last heartbeats.
fn load(queued: i64, admitted: i64, work: &[WorkerWork]) -> Load {
    let in_workers: i64 = work.iter().map(|work| i64::from(work.waiting)).sum();
    // A heartbeat may be older than the end of a request.
    let in_workers = in_workers.min(admitted);
    let (used, capacity) =
        work.iter().fold((0, 0), |(used, all), work| (used + work.kv_tokens, all + work.kv_capacity));
    Load {
        waiting: queued + in_workers,
        running: admitted - in_workers,
        kv_usage: if capacity == 0 { 0.0 } else { used as f64 / capacity as f64 },
    }
}

#[cfg(test)]
mod tests {
    use protocol::message::{StepTime, WorkerMemory};

    use super::*;

    fn work(waiting: u32, kv_tokens: u64, kv_capacity: u64) -> WorkerWork {
        WorkerWork {
            pid: 1,
            load_micros: 0,
            tokenizer_micros: 0,
            step: 0,
            running: 0,
            paused: 0,
            waiting,
            kv_tokens,
            kv_capacity,
            memory_bytes: 0,
            memory: WorkerMemory::default(),
            time: StepTime::default(),
        }
    }

    #[test]
    fn every_request_waits_or_runs_and_workers_share_their_memory() {
        let two = [work(2, 50, 100), work(1, 0, 300)];
        assert_eq!(load(4, 10, &two), Load { waiting: 7, running: 7, kv_usage: 0.125 });
        assert_eq!(load(0, 2, &two), Load { waiting: 2, running: 0, kv_usage: 0.125 });
        assert_eq!(load(3, 0, &[]), Load { waiting: 3, running: 0, kv_usage: 0.0 });
        assert_eq!(load(0, 0, &[work(0, 0, 0)]).kv_usage.to_bits(), 0);
    }
}
