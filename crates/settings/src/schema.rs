//! The keys of the file. A field's documentation says what the key means; `config/runtime.yaml` says more.

mod cpu;
mod engine;

use std::time::Duration;

use serde::Deserialize;

pub use self::{
    cpu::{Activations, Cpu, KvType},
    engine::{Memory, PrefixCache, Speculation, Worker},
};
use crate::value::{bytes, millis, number, power_of_two, section, some_text};

/// Most workers of one model. A worker is a process with a model in it: more than this on one machine is a typing
/// error.
pub const MAX_WORKERS: u64 = 64;

/// A model is at least one process and the memory of its weights.
const MAX_MODELS: u64 = 64;

/// Encoded for a worker, a body of this size is still within the codec's limit of 64 MiB.
const MAX_BODY: u64 = 32 << 20;

/// A stream costs some hundred bytes in the gateway and a share of the keys and values in a worker.
const MAX_STREAMS: u64 = 100_000;

/// Bytes that a body may take while it is parsed, in its own bytes: itself, and lists of numbers that grow by doubling.
pub const REQUEST_MEMORY_FACTOR: u64 = 6;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The model that is served from the start: a name or digest in the artifact store.
    #[serde(deserialize_with = "some_text")]
    pub model: Option<String>,
    /// Listening and bodies.
    #[serde(deserialize_with = "section")]
    pub server: Server,
    /// Which models are served.
    #[serde(deserialize_with = "section")]
    pub models: Models,
    /// Worker processes: how many, and how they are supervised.
    #[serde(deserialize_with = "section")]
    pub workers: Workers,
    /// What all workers may use together.
    #[serde(deserialize_with = "section")]
    pub memory: Memory,
    /// What each worker may use.
    #[serde(deserialize_with = "section")]
    pub worker: Worker,
    /// Keys and values that are kept for later requests.
    #[serde(deserialize_with = "section")]
    pub prefix_cache: PrefixCache,
    /// Tokens that are guessed before they are computed.
    #[serde(deserialize_with = "section")]
    pub speculation: Speculation,
    /// Frames to workers.
    #[serde(deserialize_with = "section")]
    pub batch_queue: BatchQueue,
    /// Concurrency of streams.
    #[serde(deserialize_with = "section")]
    pub stream_registry: StreamRegistry,
    /// Limits per minute for each API key; without keys, for all clients together.
    #[serde(deserialize_with = "section")]
    pub rate_limits: RateLimits,
    /// Concurrency of operations: tokenizing, and whatever else has a single answer.
    #[serde(deserialize_with = "section")]
    pub operations: Operations,
    /// The artifact store.
    #[serde(deserialize_with = "section")]
    pub cache: Cache,
    /// How workers compute on a CPU.
    #[serde(deserialize_with = "section")]
    pub cpu: Cpu,
    /// Logs and traces.
    #[serde(deserialize_with = "section")]
    pub telemetry: Telemetry,
}

/// Listening and bodies.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Address to listen on.
    pub host: String,
    /// TCP port; 0 takes any free one.
    #[serde(deserialize_with = "number::<_, _, 0, 65_535>")]
    pub port: u16,
    /// Threads that serve connections; 0: one for every four CPU cores, at least one and at most eight.
    #[serde(deserialize_with = "number::<_, _, 0, 256>")]
    pub threads: usize,
    /// Largest request body in bytes.
    #[serde(deserialize_with = "bytes::<_, 1024, MAX_BODY>")]
    pub max_body_bytes: u64,
    /// How long running streams may go on after a signal or an order to stop.
    #[serde(deserialize_with = "millis::<_, 0, HOUR_MS>")]
    pub drain_timeout_ms: Duration,
    /// Listening beyond loopback without API keys and without TLS is wanted.
    pub allow_insecure: bool,
    /// Certificate and key for HTTPS.
    #[serde(deserialize_with = "section")]
    pub tls: Tls,
    /// File that holds the keys of those who may use the server.
    #[serde(deserialize_with = "some_text")]
    pub api_keys_file: Option<String>,
    /// File that holds the keys for an administrator's requests over HTTP.
    #[serde(deserialize_with = "some_text")]
    pub admin_key_file: Option<String>,
    /// Connections that may be open at the same time; 0: as many as the limit of open files allows.
    #[serde(deserialize_with = "number::<_, _, 0, 1_000_000>")]
    pub max_connections: usize,
    /// Connections that one address may have open at the same time; 0: 1024, and no limit for this machine's own.
    #[serde(deserialize_with = "number::<_, _, 0, 1_000_000>")]
    pub max_connections_per_address: usize,
    /// Largest header of a request in bytes, with its first line.
    #[serde(deserialize_with = "bytes::<_, 4096, { 1 << 20 }>")]
    pub max_header_bytes: u64,
    /// Most lines in the header of a request.
    #[serde(deserialize_with = "number::<_, _, 16, 10_000>")]
    pub max_headers: usize,
    /// From a request's first byte to the end of its header; also for the handshake of TLS.
    #[serde(deserialize_with = "millis::<_, 100, HOUR_MS>")]
    pub header_timeout_ms: Duration,
    /// For a whole body to arrive.
    #[serde(deserialize_with = "millis::<_, 100, HOUR_MS>")]
    pub body_timeout_ms: Duration,
    /// How long a connection without a request stays open.
    #[serde(deserialize_with = "millis::<_, 100, HOUR_MS>")]
    pub idle_timeout_ms: Duration,
    /// How long a client may take nothing, or next to nothing, of its answer.
    #[serde(deserialize_with = "millis::<_, 100, HOUR_MS>")]
    pub slow_consumer_timeout_ms: Duration,
    /// Longest silence of a stream.
    #[serde(deserialize_with = "millis::<_, 100, HOUR_MS>")]
    pub sse_keepalive_ms: Duration,
    /// Bytes that bodies being read and requests that wait or run may take together.
    #[serde(deserialize_with = "bytes::<_, 1024, { 1 << 40 }>")]
    pub request_memory_bytes: u64,
    /// Hosts that requests may be addressed to, beside loopback ones.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may use the server, beside loopback ones.
    pub allowed_origins: Vec<String>,
}

/// Certificate and key for HTTPS; without them the server speaks HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// File with the certificate, and those between it and the root, as PEM.
    #[serde(deserialize_with = "some_text")]
    pub cert_file: Option<String>,
    /// File with the certificate's private key as PEM.
    #[serde(deserialize_with = "some_text")]
    pub key_file: Option<String>,
}

/// Which models are served.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Models {
    /// Models that may be loaded at the same time.
    #[serde(deserialize_with = "number::<_, _, 1, MAX_MODELS>")]
    pub max_loaded: usize,
    /// Whether a request loads a stored model that is not loaded.
    pub on_demand: OnDemand,
    /// Time without a request after which a model is unloaded; 0: never.
    #[serde(deserialize_with = "millis::<_, 0, DAY_MS>")]
    pub idle_ttl_ms: Duration,
    /// Whether models that were named at the start, or loaded over HTTP, stay loaded.
    pub pin_named: bool,
    /// How long a request may wait until another model makes room for its own.
    #[serde(deserialize_with = "millis::<_, 0, HOUR_MS>")]
    pub wait_timeout_ms: Duration,
}

/// Whether a request loads a stored model that is not loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDemand {
    /// Only where the server listens on a loopback address.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Worker processes: how many, and how they are supervised.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workers {
    /// Processes of each model.
    #[serde(deserialize_with = "number::<_, _, 1, MAX_WORKERS>")]
    pub count: usize,
    /// Bytes of each of a worker's two shared-memory rings; a power of two.
    #[serde(deserialize_with = "power_of_two::<_, { 64 << 10 }, { 1 << 30 }>")]
    pub ring_bytes: u64,
    /// From the start of a worker to the end of the handshake.
    #[serde(deserialize_with = "millis::<_, 1, DAY_MS>")]
    pub connect_timeout_ms: Duration,
    /// How long loading the model may take.
    #[serde(deserialize_with = "millis::<_, 1, DAY_MS>")]
    pub load_timeout_ms: Duration,
    /// Longest time without a frame from a loaded worker; its kernels may stand still for two thirds of it.
    #[serde(deserialize_with = "millis::<_, 100, DAY_MS>")]
    pub heartbeat_timeout_ms: Duration,
    /// Longest time without a step while sequences run.
    #[serde(deserialize_with = "millis::<_, 100, DAY_MS>")]
    pub step_timeout_ms: Duration,
    /// How long the streams of a lost worker wait for another.
    #[serde(deserialize_with = "millis::<_, 0, DAY_MS>")]
    pub recovery_timeout_ms: Duration,
    /// Wait before a restart after the second death in a row.
    #[serde(deserialize_with = "millis::<_, 1, DAY_MS>")]
    pub restart_backoff_ms: Duration,
    /// Longest wait before a restart.
    #[serde(deserialize_with = "millis::<_, 1, DAY_MS>")]
    pub max_restart_backoff_ms: Duration,
    /// Deaths within `crash_loop_window_ms` after which restarts pause.
    #[serde(deserialize_with = "number::<_, _, 1, 1000>")]
    pub crash_loop_deaths: usize,
    /// See `crash_loop_deaths`; also the length of the pause.
    #[serde(deserialize_with = "millis::<_, 1, DAY_MS>")]
    pub crash_loop_window_ms: Duration,
}

/// Frames to workers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchQueue {
    /// Most submissions in one frame.
    #[serde(deserialize_with = "number::<_, _, 1, 4096>")]
    pub max_batch_size: usize,
    /// How long a submission may be held so that others can share its frame.
    #[serde(deserialize_with = "millis::<_, 0, 4>")]
    pub flush_interval_ms: Duration,
}

/// Concurrency of streams.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamRegistry {
    /// Limits of concurrent streams.
    #[serde(deserialize_with = "section")]
    pub adaptive_limits: AdaptiveLimits,
    /// Requests that may wait for a free stream.
    #[serde(deserialize_with = "number::<_, _, 0, 1_000_000>")]
    pub max_waiting: usize,
    /// Tokens of the requests that may wait, estimated from the length of the prompt and `max_tokens`.
    #[serde(deserialize_with = "number::<_, _, 1, 1_000_000_000_000>")]
    pub max_waiting_tokens: u64,
    /// How long a request may wait.
    #[serde(deserialize_with = "millis::<_, 0, HOUR_MS>")]
    pub wait_timeout_ms: Duration,
    /// Chunks that a stream may be ahead of its reader.
    #[serde(deserialize_with = "number::<_, _, 4, 65_536>")]
    pub credit_chunks: u32,
}

/// Limits of concurrent streams. The limit adapts to the load, within these.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdaptiveLimits {
    /// Streams of a model that may run at the same time however busy its workers are; at most `max_streams`.
    #[serde(deserialize_with = "min_streams")]
    pub min_streams: Option<usize>,
    /// Streams of a model that may run at the same time at most.
    #[serde(deserialize_with = "number::<_, _, 1, MAX_STREAMS>")]
    pub max_streams: usize,
    /// By how much other requests may delay a request's first token before the limit sinks.
    #[serde(deserialize_with = "millis::<_, 1, HOUR_MS>")]
    pub first_token_target_ms: Duration,
}

/// Limits per minute for each API key; without keys, for all clients together. 0 means no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimits {
    /// Requests; 0: no limit.
    #[serde(deserialize_with = "number::<_, _, 0, 1_000_000_000>")]
    pub requests_per_minute: u64,
    /// Tokens of prompts and answers; 0: no limit.
    #[serde(deserialize_with = "number::<_, _, 0, 1_000_000_000_000>")]
    pub tokens_per_minute: u64,
}

/// Concurrency of operations: tokenizing, and whatever else has a single answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Operations {
    /// Operations that each worker may have at the same time.
    #[serde(deserialize_with = "number::<_, _, 1, 4096>")]
    pub max_in_flight: usize,
    /// Operations of a model that may wait for that; further ones are refused.
    #[serde(deserialize_with = "number::<_, _, 0, 1_000_000>")]
    pub max_waiting: usize,
    /// How long an operation may wait for that, and then for a worker that is ready.
    #[serde(deserialize_with = "millis::<_, 0, HOUR_MS>")]
    pub wait_timeout_ms: Duration,
}

/// The artifact store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// Size in bytes to which `cache-tool` keeps the store.
    #[serde(deserialize_with = "bytes::<_, 1, { u64::MAX }>")]
    pub max_size_bytes: u64,
    /// What a worker verifies of a stored model.
    pub verify: Verify,
}

/// How a worker verifies a stored model, beyond the size and header of every blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Not at all.
    Header,
    /// SHA-256 of all blobs before it serves.
    Full,
    /// SHA-256 of all blobs while it serves.
    #[default]
    Background,
}

/// Logs and traces.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Which events are logged: a level, or levels by module, in the form of `RUST_LOG`, which overrides it.
    pub log_filter: String,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Whether each request that was answered is logged.
    pub access_log: bool,
    /// Address of an OpenTelemetry collector that takes traces (OTLP over HTTP).
    #[serde(deserialize_with = "some_text")]
    pub otlp_endpoint: Option<String>,
    /// How many of a hundred requests start a trace.
    #[serde(deserialize_with = "number::<_, _, 0, 100>")]
    pub trace_sample_percent: u8,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

fn min_streams<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    number::<_, _, 1, MAX_STREAMS>(deserializer).map(Some)
}
