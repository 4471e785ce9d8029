//! The defaults. `config/runtime.yaml` shows them, and a test compares the two.

use std::{collections::BTreeMap, time::Duration};

use crate::schema::{
    AdaptiveLimits, BatchQueue, Cache, LogFormat, Models, OnDemand, Operations, PrefixCache, Server,
    Speculation, StreamRegistry, Telemetry, Tls, Verify, Worker, Workers,
};

impl Default for Server {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 8080,
            threads: 0,
            max_body_bytes: 8 << 20,
            drain_timeout_ms: Duration::from_secs(30),
            allow_insecure: false,
            tls: Tls::default(),
            api_keys_file: None,
            admin_key_file: None,
            max_connections: 0,
            max_connections_per_address: 0,
            max_header_bytes: 32 << 10,
            max_headers: 100,
            header_timeout_ms: Duration::from_secs(15),
            body_timeout_ms: Duration::from_secs(60),
            idle_timeout_ms: Duration::from_secs(60),
            slow_consumer_timeout_ms: Duration::from_secs(60),
            sse_keepalive_ms: Duration::from_secs(10),
            request_memory_bytes: 256 << 20,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
        }
    }
}

impl Default for Models {
    fn default() -> Self {
        Self {
            max_loaded: 4,
            on_demand: OnDemand::Auto,
            idle_ttl_ms: Duration::from_secs(900),
            pin_named: true,
            wait_timeout_ms: Duration::from_secs(30),
        }
    }
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            count: 1,
            ring_bytes: 4 << 20,
            connect_timeout_ms: Duration::from_secs(20),
            load_timeout_ms: Duration::from_secs(600),
            heartbeat_timeout_ms: Duration::from_secs(3),
            step_timeout_ms: Duration::from_secs(120),
            recovery_timeout_ms: Duration::from_secs(120),
            restart_backoff_ms: Duration::from_millis(250),
            max_restart_backoff_ms: Duration::from_secs(15),
            crash_loop_deaths: 5,
            crash_loop_window_ms: Duration::from_secs(60),
        }
    }
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            kv_max_bytes: 4 << 30,
            max_num_seqs: 64,
            max_prompt_chunk_tokens: 256,
            adapter_max_bytes: 256 << 20,
            special_tokens_in_content: false,
        }
    }
}

impl Default for PrefixCache {
    fn default() -> Self {
        Self { enabled: true, disk_max_bytes: 0 }
    }
}

impl Default for Speculation {
    fn default() -> Self {
        Self { max_draft_tokens: 8, draft_models: BTreeMap::new() }
    }
}

impl Default for BatchQueue {
    fn default() -> Self {
        Self { max_batch_size: 64, flush_interval_ms: Duration::ZERO }
    }
}

impl Default for StreamRegistry {
    fn default() -> Self {
        Self {
            adaptive_limits: AdaptiveLimits::default(),
            max_waiting: 256,
            max_waiting_tokens: 1_000_000,
            wait_timeout_ms: Duration::from_secs(30),
            credit_chunks: 64,
        }
    }
}

impl Default for Operations {
    fn default() -> Self {
        Self { max_in_flight: 256, max_waiting: 1024, wait_timeout_ms: Duration::from_secs(10) }
    }
}

impl Default for AdaptiveLimits {
    fn default() -> Self {
        Self { min_streams: None, max_streams: 50, first_token_target_ms: Duration::from_secs(2) }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self { max_size_bytes: 100 << 30, verify: Verify::default() }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            log_filter: "info".into(),
            log_format: LogFormat::default(),
            access_log: false,
            otlp_endpoint: None,
            trace_sample_percent: 100,
        }
    }
}
