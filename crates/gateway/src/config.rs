//! Settings: what was typed (`RawConfig`), then what it means ([`Config`]).
//!
//! Everything is checked before a port is bound or a process started, and a mistake is reported
//! with file and line. The keys, their defaults and their meaning are in `config/runtime.yaml`.

mod raw;

use std::{
    fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_saphyr::Spanned;

use self::raw::RawConfig;
use crate::cli::Flags;

/// Where settings are looked for when no file is named.
pub const DEFAULT_FILE: &str = "config/runtime.yaml";

/// Checked settings, after flags were applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Listening and bodies.
    pub server: Server,
    /// The model that all workers serve.
    pub model: String,
    /// Worker processes.
    pub workers: Workers,
    /// Frames to workers.
    pub batch_queue: BatchQueue,
    /// Concurrency of streams.
    pub stream_registry: StreamRegistry,
    /// Bytes to which the artifact store is kept. Checked here, used by the store's tools.
    pub cache_max_size_bytes: u64,
}

/// Listening and bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Address to bind.
    pub host: String,
    /// Port to bind; 0 takes any.
    pub port: u16,
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// Time for streams to end after a shutdown signal.
    pub drain_timeout: Duration,
}

/// Worker processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// How many.
    pub count: usize,
    /// Bytes of one ring; a power of two.
    pub ring_bytes: u64,
    /// From spawn to the end of the handshake.
    pub connect_timeout: Duration,
    /// From the handshake to `Ready`.
    pub load_timeout: Duration,
    /// Longest silence of a ready worker.
    pub heartbeat_timeout: Duration,
    /// Longest time without a step while sequences run.
    pub step_timeout: Duration,
    /// First and longest wait before a restart.
    pub restart_backoff: RangeInclusive<Duration>,
    /// Deaths within `crash_loop_window` that pull the brake.
    pub crash_loop_deaths: usize,
    /// See `crash_loop_deaths`; also the wait while the brake is on.
    pub crash_loop_window: Duration,
    /// The worker's executable; `None`: the one beside the gateway's own.
    pub binary: Option<PathBuf>,
    /// The artifact store; `None`: the worker's default.
    pub store: Option<PathBuf>,
}

/// Frames to workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchQueue {
    /// Most submissions in one frame.
    pub max_batch_size: usize,
    /// How long a submission may wait for others.
    pub flush_interval: Duration,
}

/// Concurrency of streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRegistry {
    /// Lower end of the limit's range.
    pub min_streams: usize,
    /// Upper end of the limit's range.
    pub max_streams: usize,
    /// Requests that may wait for a permit.
    pub max_waiting: usize,
    /// Longest wait for a permit.
    pub wait_timeout: Duration,
    /// Chunks a stream may be ahead of its reader.
    pub credit_chunks: u32,
}

/// A setting that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The file is not YAML of the known keys and types.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// Column, from 1.
        column: u64,
        /// What is wrong.
        message: String,
    },
    /// A value is out of range.
    #[error("{}:{line}: `{key}` {problem}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Line, from 1; 0 for a default that a flag or another key made impossible.
        line: u64,
        /// The key, with its parents.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Neither flag nor file name a model.
    #[error("no model to serve: give --model NAME, or set `model` in {DEFAULT_FILE} or the --config file")]
    NoModel,
    /// A flag has an impossible value.
    #[error("--{flag} {problem}")]
    Flag {
        /// Its name.
        flag: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl Config {
    /// Reads the file that `flags` names (or [`DEFAULT_FILE`] if there is one) and applies the flags.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        let (path, text) = match &flags.config {
            Some(path) => (path.clone(), read(path)?),
            // The default file may be missing, but not unreadable.
            None => match fs::read_to_string(DEFAULT_FILE) {
                Ok(text) => (DEFAULT_FILE.into(), text),
                Err(e) if e.kind() == io::ErrorKind::NotFound => ("(defaults)".into(), String::new()),
                Err(source) => return Err(ConfigError::Read { path: DEFAULT_FILE.into(), source }),
            },
        };
        Self::from_text(&path, &text, flags)
    }

    /// [`Config::load`] of a text; `path` is for messages.
    pub fn from_text(path: &Path, text: &str, flags: &Flags) -> Result<Self, ConfigError> {
        let raw = RawConfig::parse(path, text)?;
        Checker { path }.config(raw, flags)
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

/// Turns raw values into checked ones; carries what error messages need.
struct Checker<'a> {
    path: &'a Path,
}

impl Checker<'_> {
    fn config(&self, raw: RawConfig, flags: &Flags) -> Result<Config, ConfigError> {
        let model = match (&flags.model, raw.model) {
            (Some(model), _) if model.trim().is_empty() => {
                return Err(ConfigError::Flag { flag: "model", problem: "is empty".into() });
            }
            (Some(model), _) => model.clone(),
            (None, Some(model)) if model.value.trim().is_empty() => {
                return Err(self.value("model", &model, "is empty; name a model or remove the line"));
            }
            (None, Some(model)) => model.value,
            (None, None) => return Err(ConfigError::NoModel),
        };
        Ok(Config {
            model,
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
        })
    }

    fn server(&self, raw: raw::Server, flags: &Flags) -> Result<Server, ConfigError> {
        let port = self.size("server.port", raw.port, 0..=u64::from(u16::MAX))?;
        Ok(Server {
            host: flags.host.clone().unwrap_or(raw.host),
            port: flags.port.unwrap_or(u16::try_from(port).unwrap_or(u16::MAX)),
            max_body_bytes: self.size("server.max_body_bytes", raw.max_body_bytes, 1024..=MAX_BODY)?,
            drain_timeout: self.millis("server.drain_timeout_ms", raw.drain_timeout_ms, 0..=3_600_000)?,
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

/// A worker is a process with a model in it: more than this on one machine is a typing error.
const MAX_WORKERS: u64 = 64;

/// Encoded for a worker, a body of this size is still within the codec's limit of 64 MiB.
const MAX_BODY: u64 = 32 << 20;

/// A stream costs some hundred bytes here and a KV share in a worker.
const STREAMS: RangeInclusive<u64> = 1..=100_000;

/// `"100GiB"`, `"1.5 TiB"`, `"1073741824"`; `None` if it is none of these or does not fit.
fn parse_bytes(text: &str) -> Option<u64> {
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

#[cfg(test)]
mod tests;
