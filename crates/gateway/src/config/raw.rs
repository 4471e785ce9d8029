//! The file as it is typed: types and known keys, no ranges.

use std::path::Path;

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};
use serde_saphyr::{Location, Spanned};

use super::{ConfigError, Cpu, Verify};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    pub(super) model: Option<Spanned<String>>,
    pub(super) server: Server,
    pub(super) models: Models,
    pub(super) workers: Workers,
    pub(super) batch_queue: BatchQueue,
    pub(super) stream_registry: StreamRegistry,
    pub(super) cache: Cache,
    pub(super) cpu: Cpu,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: Spanned<u64>,
    pub(super) max_body_bytes: Spanned<u64>,
    pub(super) drain_timeout_ms: Spanned<u64>,
    pub(super) admin_key_file: Option<String>,
    pub(super) max_connections: Spanned<u64>,
    pub(super) header_timeout_ms: Spanned<u64>,
    pub(super) body_timeout_ms: Spanned<u64>,
    pub(super) idle_timeout_ms: Spanned<u64>,
    pub(super) slow_consumer_timeout_ms: Spanned<u64>,
    pub(super) sse_keepalive_ms: Spanned<u64>,
    pub(super) request_memory_bytes: Spanned<u64>,
    pub(super) allowed_hosts: Vec<String>,
    pub(super) allowed_origins: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Models {
    pub(super) max_loaded: Spanned<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Workers {
    pub(super) count: Spanned<u64>,
    pub(super) ring_bytes: Spanned<u64>,
    pub(super) connect_timeout_ms: Spanned<u64>,
    pub(super) load_timeout_ms: Spanned<u64>,
    pub(super) heartbeat_timeout_ms: Spanned<u64>,
    pub(super) step_timeout_ms: Spanned<u64>,
    pub(super) restart_backoff_ms: Spanned<u64>,
    pub(super) max_restart_backoff_ms: Spanned<u64>,
    pub(super) crash_loop_deaths: Spanned<u64>,
    pub(super) crash_loop_window_ms: Spanned<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BatchQueue {
    pub(super) max_batch_size: Spanned<u64>,
    pub(super) flush_interval_ms: Spanned<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct StreamRegistry {
    pub(super) adaptive_limits: AdaptiveLimits,
    pub(super) max_waiting: Spanned<u64>,
    pub(super) wait_timeout_ms: Spanned<u64>,
    pub(super) credit_chunks: Spanned<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AdaptiveLimits {
    pub(super) min_streams: Spanned<u64>,
    pub(super) max_streams: Spanned<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Cache {
    #[serde(deserialize_with = "number_or_text")]
    pub(super) max_size_bytes: Spanned<String>,
    pub(super) verify: Verify,
}

impl RawConfig {
    /// An empty text, or one of comments alone, is all defaults.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let parsed: Result<Option<Self>, _> = serde_saphyr::from_str(text);
        parsed.map(Option::unwrap_or_default).map_err(|e| {
            let e = e.without_snippet();
            let at = e.location().unwrap_or(Location::UNKNOWN);
            // The library writes the place into its message as well; once is enough.
            let message = e.to_string();
            let suffix = format!(" at line {}, column {}", at.line(), at.column());
            let message = message.strip_suffix(&suffix).unwrap_or(&message).to_owned();
            ConfigError::Parse { path: path.to_owned(), line: at.line(), column: at.column(), message }
        })
    }
}

/// A default has no place in the file.
fn default<T>(value: T) -> Spanned<T> {
    Spanned::new(value, Location::UNKNOWN, Location::UNKNOWN)
}

impl Default for Server {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: default(8080),
            max_body_bytes: default(8 << 20),
            drain_timeout_ms: default(30_000),
            admin_key_file: None,
            max_connections: default(0),
            header_timeout_ms: default(15_000),
            body_timeout_ms: default(60_000),
            idle_timeout_ms: default(60_000),
            slow_consumer_timeout_ms: default(20_000),
            sse_keepalive_ms: default(10_000),
            request_memory_bytes: default(256 << 20),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
        }
    }
}

impl Default for Models {
    fn default() -> Self {
        Self { max_loaded: default(4) }
    }
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            count: default(1),
            ring_bytes: default(4 << 20),
            connect_timeout_ms: default(20_000),
            load_timeout_ms: default(600_000),
            heartbeat_timeout_ms: default(15_000),
            step_timeout_ms: default(120_000),
            restart_backoff_ms: default(250),
            max_restart_backoff_ms: default(15_000),
            crash_loop_deaths: default(5),
            crash_loop_window_ms: default(60_000),
        }
    }
}

impl Default for BatchQueue {
    fn default() -> Self {
        Self { max_batch_size: default(64), flush_interval_ms: default(0) }
    }
}

impl Default for StreamRegistry {
    fn default() -> Self {
        Self {
            adaptive_limits: AdaptiveLimits::default(),
            max_waiting: default(256),
            wait_timeout_ms: default(30_000),
            credit_chunks: default(64),
        }
    }
}

impl Default for AdaptiveLimits {
    fn default() -> Self {
        Self { min_streams: default(5), max_streams: default(50) }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self { max_size_bytes: default("100GiB".into()), verify: Verify::Background }
    }
}

/// Text, whether it was typed as `100GiB` or as `107374182400`.
struct NumberOrText(String);

impl<'de> Deserialize<'de> for NumberOrText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = NumberOrText;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of bytes, or one with KiB, MiB, GiB or TiB")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
                Ok(NumberOrText(value.to_string()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
                Ok(NumberOrText(value.to_string()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
                Ok(NumberOrText(value.to_string()))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
                Ok(NumberOrText(value.to_owned()))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Spanned<String>, D::Error> {
    let spanned = Spanned::<NumberOrText>::deserialize(deserializer)?;
    Ok(Spanned::new(spanned.value.0, spanned.referenced, spanned.defined))
}
