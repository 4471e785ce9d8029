//! What the settings mean for the gateway: the file, as the `settings` crate reads it, with the flags applied.
//!
//! Everything is checked before a port is bound or a process started, and a mistake is reported
//! with file and line. The keys, their defaults and their meaning are in `config/runtime.yaml`.

mod check;
mod combine;
mod demand;
mod environment;
mod exposure;
mod keys;
mod live;
mod secret_file;
mod telemetry_settings;
mod tls;
mod warnings;
mod worker_options;

use std::{io, ops::RangeInclusive, path::PathBuf, time::Duration};

pub use settings::{Activations, Cpu, KvType, Memory, PrefixCache, Speculation, Verify, Worker};
use settings::{DEFAULT_FILE, SettingsError};
pub(crate) use settings::{MAX_WORKERS, REQUEST_MEMORY_FACTOR};

pub(crate) use self::exposure::is_loopback;
pub use self::{
    check::check,
    combine::Loaded,
    demand::Demand,
    environment::Environment,
    keys::{Digest, Keys},
    live::{Change, Changes, adopt, diff},
    tls::Tls,
};

/// Checked settings, after flags were applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Listening and bodies.
    pub server: Server,
    /// The models that are served from the start; at least one, unless models are loaded on demand.
    pub models: Vec<String>,
    /// Models that may be loaded at the same time.
    pub max_loaded: usize,
    /// Models that come and go with requests.
    pub demand: Demand,
    /// Worker processes.
    pub workers: Workers,
    /// Frames to workers.
    pub batch_queue: BatchQueue,
    /// Concurrency of streams.
    pub stream_registry: StreamRegistry,
    /// Limits of each caller per minute.
    pub rate_limits: RateLimits,
    /// Concurrency of operations.
    pub operations: Operations,
    /// What all workers may use together.
    pub memory: Memory,
    /// What each worker may use.
    pub worker: Worker,
    /// Keys and values that are kept for later requests.
    pub prefix_cache: PrefixCache,
    /// Tokens that workers guess before they compute them.
    pub speculation: Speculation,
    /// How workers verify what they load.
    pub verify: Verify,
    /// How workers compute on a CPU.
    pub cpu: Cpu,
    /// Logs and traces, also of workers.
    pub telemetry: telemetry::Settings,
}

/// Listening and bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Address to bind.
    pub host: String,
    /// Port to bind; 0 takes any.
    pub port: u16,
    /// Threads of the runtime; 0: as [`crate::runtime`] says.
    pub threads: usize,
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// Time for streams to end after a shutdown signal.
    pub drain_timeout: Duration,
    /// Listening beyond loopback without API keys and without TLS is wanted.
    pub allow_insecure: bool,
    /// For HTTPS; `None`: HTTP.
    pub tls: Option<Tls>,
    /// Of those who may use the server; without any, everybody may.
    pub api_keys: Keys,
    /// Of those who may load and unload models, too; without any, nobody may.
    pub admin_keys: Keys,
    /// Limits of connections.
    pub connections: Connections,
    /// For a whole body to arrive.
    pub body_timeout: Duration,
    /// Longest silence of a stream.
    pub sse_keepalive: Duration,
    /// Bytes that bodies and waiting requests may take together.
    pub request_memory: usize,
    /// Hosts that requests may be addressed to, beside loopback ones.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may use the server, beside loopback ones.
    pub allowed_origins: Vec<String>,
}

/// Limits of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Open at the same time; 0: as many as the limit of open files allows.
    pub max_connections: usize,
    /// Open at the same time from one address; 0: a default, and no limit for loopback addresses.
    pub max_connections_per_address: usize,
    /// Largest header of a request in bytes.
    pub max_header_bytes: usize,
    /// Most lines of a header.
    pub max_headers: usize,
    /// From a request's first byte to the end of its header; also for the handshake of TLS.
    pub header_timeout: Duration,
    /// Without a request.
    pub idle_timeout: Duration,
    /// For a client that takes no bytes, or next to none, of an answer.
    pub slow_consumer_timeout: Duration,
}

/// Worker processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// How many for each model.
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
    /// How long the streams of a lost worker wait for another.
    pub recovery_timeout: Duration,
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
    /// Streams that may run at the same time, however busy the workers are.
    pub min_streams: usize,
    /// Streams that may run at the same time at most.
    pub max_streams: usize,
    /// Streams that may run at the same time before anything is known of the workers.
    pub start_streams: usize,
    /// Time to the first token that other requests may cost.
    pub first_token_target: Duration,
    /// Requests that may wait for a permit.
    pub max_waiting: usize,
    /// Their tokens, estimated.
    pub max_waiting_tokens: u64,
    /// Longest wait for a permit.
    pub wait_timeout: Duration,
    /// Chunks a stream may be ahead of its reader.
    pub credit_chunks: u32,
}

/// Concurrency of operations: tokenizing, and whatever else has a single answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operations {
    /// Operations that each worker may have at the same time.
    pub max_in_flight: usize,
    /// Operations of a model that may wait.
    pub max_waiting: usize,
    /// Longest wait for a place, and then for a worker.
    pub wait_timeout: Duration,
}

/// Limits of each caller per minute; `None` means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Requests that are admitted.
    pub requests_per_minute: Option<u64>,
    /// Tokens of prompts and answers.
    pub tokens_per_minute: Option<u64>,
}

#[cfg(test)]
impl StreamRegistry {
    /// A fixed limit of `streams`, whatever the load.
    pub(crate) fn of_streams(streams: usize) -> Self {
        Self {
            min_streams: streams,
            max_streams: streams,
            start_streams: streams,
            first_token_target: Duration::from_secs(2),
            max_waiting: 256,
            max_waiting_tokens: 1 << 20,
            wait_timeout: Duration::from_secs(30),
            credit_chunks: 8,
        }
    }
}

/// A setting that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A file with keys or a certificate can't be read.
    #[error("cannot read the {what} in {}", path.display())]
    ReadSecret {
        /// What is in it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key or certificate can't be used.
    #[error("the {what} in {origin} {problem}")]
    Secret {
        /// What it is.
        what: &'static str,
        /// The file, perhaps with a line, or the environment variable that it comes from.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Everybody could use the server.
    #[error(
        "on {host} other machines can reach the server, and it has neither API keys nor TLS. Do one of these: \
         give it API keys (`server.api_keys_file`, or KR_API_KEYS in its environment); give it a certificate \
         (`server.tls`); or, if everybody may use it, say so (`server.allow_insecure: true`, or --allow-insecure)"
    )]
    Exposed {
        /// The address to listen on.
        host: String,
    },
    /// Neither flag nor file name a model, and none is loaded on demand.
    #[error(
        "no model to serve: give --model NAME, or set `model` in {DEFAULT_FILE} or the --config file, or \
         `models.on_demand: on` to load models when they are asked for"
    )]
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

#[cfg(test)]
mod tests;
