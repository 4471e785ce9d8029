//! What of a configuration can change while the gateway runs: one table of all keys, and what follows from it.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use telemetry::LogFormat;

use super::{Activations, Config, ConfigError, Keys, KvType, Verify, combine, exposure};

/// What changes with a new configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What can change at once.
    pub live: Vec<Change>,
    /// What takes effect after a restart.
    pub after_restart: Vec<Change>,
}

/// A key with its values, as they may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name in the file.
    pub key: &'static str,
    /// The value so far.
    pub from: String,
    /// The new value.
    pub to: String,
}

/// One key of the file.
struct Row {
    key: &'static str,
    differs: fn(&Config, &Config) -> bool,
    show: fn(&Config) -> String,
    /// Takes the value over; `None`: only a restart can.
    adopt: Option<fn(&mut Config, &Config)>,
}

/// What `new` changes in `running`.
pub fn diff(running: &Config, new: &Config) -> Changes {
    let mut changes = Changes::default();
    for row in rows().filter(|row| (row.differs)(running, new)) {
        let change = Change { key: row.key, from: (row.show)(running), to: (row.show)(new) };
        let kind = if row.adopt.is_some() { &mut changes.live } else { &mut changes.after_restart };
        kind.push(change);
    }
    changes
}

/// `running` with all of `new` that can change at once.
///
/// # Errors
/// The two together can't be used: the keys that protect an address are gone, and the address stays.
pub fn adopt(running: &Config, new: &Config) -> Result<Config, ConfigError> {
    let mut config = running.clone();
    for adopt in rows().filter_map(|row| row.adopt) {
        adopt(&mut config, new);
    }
    // It follows from the range, which can change, and the workers, which stay.
    let places = combine::places(&config.workers, &config.worker);
    let streams = &mut config.stream_registry;
    streams.start_streams = places.clamp(streams.min_streams, streams.max_streams);
    exposure::check(&config.server)?;
    Ok(config)
}

/// Every key with its value as it may be shown, and whether it can change while the gateway runs.
pub(super) fn values(config: &Config) -> impl Iterator<Item = (&'static str, String, bool)> {
    rows().map(|row| (row.key, (row.show)(config), row.adopt.is_some()))
}

fn rows() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().chain(TLS).chain(BACKOFF).chain(TRACES)
}

/// Defines rows by the field that has the value.
macro_rules! rows {
    ($($when:ident $key:literal = $($field:ident).+;)*) => {
        &[$(Row {
            key: $key,
            differs: |running, new| running.$($field).+ != new.$($field).+,
            show: |config| config.$($field).+.show(),
            adopt: rows!(@$when $($field).+),
        },)*]
    };
    (@live $($field:ident).+) => { Some(|running, new| running.$($field).+.clone_from(&new.$($field).+)) };
    (@restart $($field:ident).+) => { None };
}

const ROWS: &[Row] = rows! {
    restart "model" = models;
    restart "server.host" = server.host;
    restart "server.port" = server.port;
    restart "server.threads" = server.threads;
    live "server.max_body_bytes" = server.max_body_bytes;
    live "server.drain_timeout_ms" = server.drain_timeout;
    live "server.allow_insecure" = server.allow_insecure;
    live "server.api_keys_file" = server.api_keys;
    live "server.admin_key_file" = server.admin_keys;
    live "server.max_connections" = server.connections.max_connections;
    live "server.max_connections_per_address" = server.connections.max_connections_per_address;
    live "server.max_header_bytes" = server.connections.max_header_bytes;
    live "server.max_headers" = server.connections.max_headers;
    live "server.header_timeout_ms" = server.connections.header_timeout;
    live "server.body_timeout_ms" = server.body_timeout;
    live "server.idle_timeout_ms" = server.connections.idle_timeout;
    live "server.slow_consumer_timeout_ms" = server.connections.slow_consumer_timeout;
    live "server.sse_keepalive_ms" = server.sse_keepalive;
    live "server.request_memory_bytes" = server.request_memory;
    live "server.allowed_hosts" = server.allowed_hosts;
    live "server.allowed_origins" = server.allowed_origins;
    live "models.max_loaded" = max_loaded;
    restart "models.on_demand" = demand.on;
    restart "models.idle_ttl_ms" = demand.idle_ttl;
    restart "models.pin_named" = demand.pin_named;
    restart "models.wait_timeout_ms" = demand.wait_timeout;
    restart "workers.count" = workers.count;
    restart "workers.ring_bytes" = workers.ring_bytes;
    restart "workers.connect_timeout_ms" = workers.connect_timeout;
    restart "workers.load_timeout_ms" = workers.load_timeout;
    restart "workers.heartbeat_timeout_ms" = workers.heartbeat_timeout;
    restart "workers.step_timeout_ms" = workers.step_timeout;
    restart "workers.recovery_timeout_ms" = workers.recovery_timeout;
    restart "workers.crash_loop_deaths" = workers.crash_loop_deaths;
    restart "workers.crash_loop_window_ms" = workers.crash_loop_window;
    restart "memory.max_bytes" = memory.max_bytes;
    restart "worker.kv_max_bytes" = worker.kv_max_bytes;
    restart "worker.max_num_seqs" = worker.max_num_seqs;
    restart "worker.max_prompt_chunk_tokens" = worker.max_prompt_chunk_tokens;
    restart "worker.adapter_max_bytes" = worker.adapter_max_bytes;
    restart "worker.special_tokens_in_content" = worker.special_tokens_in_content;
    restart "prefix_cache.enabled" = prefix_cache.enabled;
    restart "prefix_cache.disk_max_bytes" = prefix_cache.disk_max_bytes;
    restart "speculation.max_draft_tokens" = speculation.max_draft_tokens;
    restart "speculation.draft_models" = speculation.draft_models;
    restart "batch_queue.max_batch_size" = batch_queue.max_batch_size;
    restart "batch_queue.flush_interval_ms" = batch_queue.flush_interval;
    live "stream_registry.adaptive_limits.min_streams" = stream_registry.min_streams;
    live "stream_registry.adaptive_limits.max_streams" = stream_registry.max_streams;
    live "stream_registry.adaptive_limits.first_token_target_ms" = stream_registry.first_token_target;
    live "stream_registry.max_waiting" = stream_registry.max_waiting;
    live "stream_registry.max_waiting_tokens" = stream_registry.max_waiting_tokens;
    live "stream_registry.wait_timeout_ms" = stream_registry.wait_timeout;
    restart "stream_registry.credit_chunks" = stream_registry.credit_chunks;
    live "rate_limits.requests_per_minute" = rate_limits.requests_per_minute;
    live "rate_limits.tokens_per_minute" = rate_limits.tokens_per_minute;
    restart "operations.max_in_flight" = operations.max_in_flight;
    restart "operations.max_waiting" = operations.max_waiting;
    restart "operations.wait_timeout_ms" = operations.wait_timeout;
    restart "cache.verify" = verify;
    restart "cpu.activations" = cpu.activations;
    restart "cpu.kv_type" = cpu.kv_type;
    live "telemetry.log_filter" = telemetry.filter;
    restart "telemetry.log_format" = telemetry.format;
    live "telemetry.access_log" = telemetry.access_log;
};

/// Another certificate serves the next connection; HTTP does not become HTTPS under its clients.
const TLS: &[Row] = &[
    Row {
        key: "server.tls",
        differs: |running, new| running.server.tls.is_some() != new.server.tls.is_some(),
        show: |config| config.server.tls.is_some().show(),
        adopt: None,
    },
    Row {
        key: "server.tls.cert_file",
        differs: |running, new| {
            let (running, new) = (&running.server.tls, &new.server.tls);
            running.is_some() && new.is_some() && running != new
        },
        show: |_| "a certificate and its key".to_owned(),
        adopt: Some(|running, new| {
            if running.server.tls.is_some() && new.server.tls.is_some() {
                running.server.tls.clone_from(&new.server.tls);
            }
        }),
    },
];

/// Two keys, and one field.
const BACKOFF: &[Row] = &[
    Row {
        key: "workers.restart_backoff_ms",
        differs: |running, new| backoff(running).start() != backoff(new).start(),
        show: |config| backoff(config).start().show(),
        adopt: None,
    },
    Row {
        key: "workers.max_restart_backoff_ms",
        differs: |running, new| backoff(running).end() != backoff(new).end(),
        show: |config| backoff(config).end().show(),
        adopt: None,
    },
];

fn backoff(config: &Config) -> &RangeInclusive<Duration> {
    &config.workers.restart_backoff
}

/// Two keys, and one field, which is there with the first of them.
const TRACES: &[Row] = &[
    Row {
        key: "telemetry.otlp_endpoint",
        differs: |running, new| endpoint(running) != endpoint(new),
        show: |config| endpoint(config).unwrap_or("none").to_owned(),
        adopt: None,
    },
    Row {
        key: "telemetry.trace_sample_percent",
        differs: |running, new| {
            let (running, new) = (sample_percent(running), sample_percent(new));
            running.is_some() && new.is_some() && running != new
        },
        show: |config| sample_percent(config).map_or_else(|| "nothing is traced".into(), |it| it.to_string()),
        adopt: None,
    },
];

fn endpoint(config: &Config) -> Option<&str> {
    config.telemetry.traces.as_ref().map(|traces| traces.endpoint.as_str())
}

fn sample_percent(config: &Config) -> Option<u8> {
    config.telemetry.traces.as_ref().map(|traces| traces.sample_percent)
}

/// A value as the file would have it, or as little of it as may be shown.
trait Show {
    fn show(&self) -> String;
}

macro_rules! show {
    ($($type:ty: |$it:ident| $shown:expr;)*) => {
        $(impl Show for $type {
            fn show(&self) -> String {
                let $it = self;
                $shown
            }
        })*
    };
}

show! {
    bool: |it| it.to_string();
    u16: |it| it.to_string();
    u32: |it| it.to_string();
    u64: |it| it.to_string();
    usize: |it| it.to_string();
    Option<u64>: |it| it.unwrap_or(0).to_string();
    String: |it| it.clone();
    Duration: |it| it.as_millis().to_string();
    Option<Duration>: |it| it.unwrap_or_default().show();
    Vec<String>: |it| format!("[{}]", it.join(", "));
    BTreeMap<String, String>: |it| {
        let pairs: Vec<String> = it.iter().map(|(one, other)| format!("{one}: {other}")).collect();
        format!("{{{}}}", pairs.join(", "))
    };
    Keys: |it| format!("[{}]", it.names().collect::<Vec<_>>().join(", "));
    Verify: |it| format!("{it:?}").to_lowercase();
    LogFormat: |it| it.to_string();
    Activations: |it| format!("{it:?}").to_lowercase();
    KvType: |it| format!("{it:?}").to_lowercase();
}

#[cfg(test)]
mod tests;
