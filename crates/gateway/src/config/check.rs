//! Ranges and contradictions: from what was typed to what it means.

use std::{ops::RangeInclusive, path::Path, time::Duration};

use serde_saphyr::Spanned;

use super::{
    AdminKey, BatchQueue, Config, ConfigError, Connections, Server, StreamRegistry, Workers,
    raw::{self, RawConfig},
};
use crate::cli::Flags;

/// Turns raw values into checked ones; carries what error messages need.
pub(super) struct Checker<'a> {
    pub(super) path: &'a Path,
}

impl Checker<'_> {
    pub(super) fn config(&self, raw: RawConfig, flags: &Flags) -> Result<Config, ConfigError> {
        let max_loaded = self.number("models.max_loaded", &raw.models.max_loaded, 1..=MAX_MODELS)? as usize;
        let models = self.models(raw.model, flags)?;
        if models.len() > max_loaded {
            let problem = format!("is {max_loaded}, but {} models are to be served", models.len());
            return Err(self.value("models.max_loaded", &raw.models.max_loaded, problem));
        }
        Ok(Config {
            models,
            max_loaded,
            server: self.server(raw.server, flags)?,
            workers: self.workers(raw.workers, flags)?,
            batch_queue: BatchQueue {
                max_batch_size: self.size(
                    "batch_queue.max_batch_size",
                    raw.batch_queue.max_batch_size,
                    1..=4096,
                )?,
                flush_interval: self.millis(
                    "batch_queue.flush_interval_ms",
                    raw.batch_queue.flush_interval_ms,
                    0..=4,
                )?,
            },
            stream_registry: self.stream_registry(raw.stream_registry)?,
            cache_max_size_bytes: self.bytes("cache.max_size_bytes", &raw.cache.max_size_bytes)?,
            verify: raw.cache.verify,
            cpu: raw.cpu,
        })
    }

    /// Those of the flags, else the file's one.
    fn models(&self, raw: Option<Spanned<String>>, flags: &Flags) -> Result<Vec<String>, ConfigError> {
        let wrong = |problem: String| ConfigError::Flag { flag: "model", problem };
        for (i, model) in flags.models.iter().enumerate() {
            if model.trim().is_empty() {
                return Err(wrong("is empty".into()));
            }
            if flags.models[..i].contains(model) {
                return Err(wrong(format!("names `{model}` twice")));
            }
        }
        match raw {
            _ if !flags.models.is_empty() => Ok(flags.models.clone()),
            Some(model) if model.value.trim().is_empty() => {
                Err(self.value("model", &model, "is empty; name a model or remove the line"))
            }
            Some(model) => Ok(vec![model.value]),
            None => Err(ConfigError::NoModel),
        }
    }

    fn server(&self, raw: raw::Server, flags: &Flags) -> Result<Server, ConfigError> {
        let port = self.size("server.port", raw.port, 0..=u64::from(u16::MAX))?;
        let max_body = self.size("server.max_body_bytes", raw.max_body_bytes, 1024..=MAX_BODY)?;
        let least = REQUEST_MEMORY_FACTOR * max_body as u64;
        if raw.request_memory_bytes.value < least {
            let problem = format!(
                "is {}, but must be at least {REQUEST_MEMORY_FACTOR} times `server.max_body_bytes` ({least})",
                raw.request_memory_bytes.value
            );
            return Err(self.value("server.request_memory_bytes", &raw.request_memory_bytes, problem));
        }
        let limit = |key, raw| self.millis(key, raw, 100..=3_600_000);
        Ok(Server {
            host: flags.host.clone().unwrap_or(raw.host),
            port: flags.port.unwrap_or(u16::try_from(port).unwrap_or(u16::MAX)),
            max_body_bytes: max_body,
            drain_timeout: self.millis("server.drain_timeout_ms", raw.drain_timeout_ms, 0..=3_600_000)?,
            admin_key: raw.admin_key_file.as_deref().map(AdminKey::read).transpose()?,
            connections: Connections {
                max_connections: self.size("server.max_connections", raw.max_connections, 0..=1_000_000)?,
                header_timeout: limit("server.header_timeout_ms", raw.header_timeout_ms)?,
                idle_timeout: limit("server.idle_timeout_ms", raw.idle_timeout_ms)?,
                slow_consumer_timeout: limit(
                    "server.slow_consumer_timeout_ms",
                    raw.slow_consumer_timeout_ms,
                )?,
            },
            body_timeout: limit("server.body_timeout_ms", raw.body_timeout_ms)?,
            sse_keepalive: limit("server.sse_keepalive_ms", raw.sse_keepalive_ms)?,
            request_memory: usize::try_from(raw.request_memory_bytes.value).unwrap_or(usize::MAX),
            allowed_hosts: raw.allowed_hosts,
            allowed_origins: raw.allowed_origins,
        })
    }

    fn workers(&self, raw: raw::Workers, flags: &Flags) -> Result<Workers, ConfigError> {
        const DAY_MS: u64 = 86_400_000;
        let configured = self.size("workers.count", raw.count, 1..=MAX_WORKERS)?;
        let count = match flags.workers {
            None => configured,
            Some(n) if (1..=MAX_WORKERS).contains(&(n as u64)) => n,
            Some(n) => {
                let problem = format!("is {n}, but must be from 1 to {MAX_WORKERS}");
                return Err(ConfigError::Flag { flag: "workers", problem });
            }
        };
        let ring = self.number("workers.ring_bytes", &raw.ring_bytes, 64 << 10..=1 << 30)?;
        if !ring.is_power_of_two() {
            let problem = format!("is {ring}, but must be a power of two");
            return Err(self.value("workers.ring_bytes", &raw.ring_bytes, problem));
        }
        let backoff = self.number("workers.restart_backoff_ms", &raw.restart_backoff_ms, 1..=DAY_MS)?;
        let max = self.number("workers.max_restart_backoff_ms", &raw.max_restart_backoff_ms, 1..=DAY_MS)?;
        if max < backoff {
            let problem = format!("is {max}, less than `workers.restart_backoff_ms` ({backoff})");
            return Err(self.value("workers.max_restart_backoff_ms", &raw.max_restart_backoff_ms, problem));
        }
        Ok(Workers {
            count,
            ring_bytes: ring,
            connect_timeout: self.millis("workers.connect_timeout_ms", raw.connect_timeout_ms, 1..=DAY_MS)?,
            load_timeout: self.millis("workers.load_timeout_ms", raw.load_timeout_ms, 1..=DAY_MS)?,
            heartbeat_timeout: self.millis(
                "workers.heartbeat_timeout_ms",
                raw.heartbeat_timeout_ms,
                100..=DAY_MS,
            )?,
            step_timeout: self.millis("workers.step_timeout_ms", raw.step_timeout_ms, 100..=DAY_MS)?,
            restart_backoff: Duration::from_millis(backoff)..=Duration::from_millis(max),
            crash_loop_deaths: self.size("workers.crash_loop_deaths", raw.crash_loop_deaths, 1..=1000)?,
            crash_loop_window: self.millis(
                "workers.crash_loop_window_ms",
                raw.crash_loop_window_ms,
                1..=DAY_MS,
            )?,
            binary: flags.worker_bin.clone(),
            store: flags.store.clone(),
        })
    }

    fn stream_registry(&self, raw: raw::StreamRegistry) -> Result<StreamRegistry, ConfigError> {
        let limits = raw.adaptive_limits;
        let min = self.number("stream_registry.adaptive_limits.min_streams", &limits.min_streams, STREAMS)?;
        let max = self.number("stream_registry.adaptive_limits.max_streams", &limits.max_streams, STREAMS)?;
        if max < min {
            let problem = format!("is {max}, less than `min_streams` ({min})");
            return Err(self.value(
                "stream_registry.adaptive_limits.max_streams",
                &limits.max_streams,
                problem,
            ));
        }
        let credit = self.size("stream_registry.credit_chunks", raw.credit_chunks, 4..=65_536)?;
        Ok(StreamRegistry {
            min_streams: min as usize,
            max_streams: max as usize,
            max_waiting: self.size("stream_registry.max_waiting", raw.max_waiting, 0..=1_000_000)?,
            wait_timeout: self.millis(
                "stream_registry.wait_timeout_ms",
                raw.wait_timeout_ms,
                0..=3_600_000,
            )?,
            credit_chunks: credit as u32,
        })
    }

    fn number(
        &self,
        key: &'static str,
        raw: &Spanned<u64>,
        range: RangeInclusive<u64>,
    ) -> Result<u64, ConfigError> {
        if range.contains(&raw.value) {
            return Ok(raw.value);
        }
        let problem = format!("is {}, but must be from {} to {}", raw.value, range.start(), range.end());
        Err(self.value(key, raw, problem))
    }

    fn size(
        &self,
        key: &'static str,
        raw: Spanned<u64>,
        range: RangeInclusive<u64>,
    ) -> Result<usize, ConfigError> {
        self.number(key, &raw, range).map(|n| n as usize)
    }

    fn millis(
        &self,
        key: &'static str,
        raw: Spanned<u64>,
        range: RangeInclusive<u64>,
    ) -> Result<Duration, ConfigError> {
        self.number(key, &raw, range).map(Duration::from_millis)
    }

    fn bytes(&self, key: &'static str, raw: &Spanned<String>) -> Result<u64, ConfigError> {
        let bytes = parse_bytes(&raw.value).ok_or_else(|| {
            let problem = format!(
                "is `{}`, but must be a number of bytes, or one with KiB, MiB, GiB or TiB",
                raw.value
            );
            self.value(key, raw, problem)
        })?;
        if bytes == 0 {
            return Err(self.value(key, raw, "is 0; a store needs room"));
        }
        Ok(bytes)
    }

    fn value<T>(&self, key: &'static str, raw: &Spanned<T>, problem: impl Into<String>) -> ConfigError {
        let path = self.path.to_owned();
        ConfigError::Value { path, line: raw.referenced.line(), key, problem: problem.into() }
    }
}

/// Most workers of one model. A worker is a process with a model in it: more than this on one machine is a typing
/// error.
pub(crate) const MAX_WORKERS: u64 = 64;

/// A model is at least one process and the memory of its weights.
const MAX_MODELS: u64 = 64;

/// Bytes that a body may take while it is parsed, in its own bytes: itself, and lists of numbers that grow by doubling.
pub(crate) const REQUEST_MEMORY_FACTOR: u64 = 6;

/// Encoded for a worker, a body of this size is still within the codec's limit of 64 MiB.
const MAX_BODY: u64 = 32 << 20;

/// A stream costs some hundred bytes here and a KV share in a worker.
const STREAMS: RangeInclusive<u64> = 1..=100_000;

/// `"100GiB"`, `"1.5 TiB"`, `"1073741824"`; `None` if it is none of these or does not fit.
pub(super) fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    let number = number.replace('_', "");
    match number.parse::<u64>() {
        Ok(n) => n.checked_mul(factor),
        // A fraction of a byte means nothing.
        Err(_) if factor == 1 => None,
        Err(_) => {
            let bytes = number.parse::<f64>().ok()? * factor as f64;
            (bytes < u64::MAX as f64).then_some(bytes as u64)
        }
    }
}
