//! The file, the flags and the environment together.

use std::path::{Path, PathBuf};

use settings::{File, MAX_WORKERS, Settings};

use super::{
    BatchQueue, Config, ConfigError, Connections, Demand, Environment, Keys, Operations, RateLimits, Server,
    StreamRegistry, Tls, Worker, Workers, exposure,
    keys::KeyKind,
    telemetry_settings,
    warnings::{self, Overridden},
};
use crate::cli::Flags;

/// A configuration that can be used, and what is to be said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// What has no effect in it, or is dangerous.
    pub warnings: Vec<String>,
    /// The configuration file. It may be missing.
    pub path: PathBuf,
}

impl Config {
    /// Reads the file that `flags` names (or the default one if it exists), and applies the environment and the flags.
    pub fn load(flags: &Flags) -> Result<Loaded, ConfigError> {
        let loaded = Self::load_any(flags)?;
        loaded.with_models()
    }

    /// The same, whether a model is named or not.
    pub(super) fn load_any(flags: &Flags) -> Result<Loaded, ConfigError> {
        combine(&File::load(flags.config.as_deref())?, flags, &Environment::of_process())
    }

    /// [`Config::load`] of a text and without an environment; `path` is for messages.
    pub fn from_text(path: &Path, text: &str, flags: &Flags) -> Result<Self, ConfigError> {
        Self::from_parts(path, text, flags, &Environment::default()).map(|loaded| loaded.config)
    }

    /// [`Config::load`] of a text; `path` is for messages.
    pub fn from_parts(
        path: &Path,
        text: &str,
        flags: &Flags,
        environment: &Environment,
    ) -> Result<Loaded, ConfigError> {
        let loaded = combine(&File::parse(path, text)?, flags, environment)?;
        loaded.with_models()
    }
}

impl Loaded {
    /// What can be served: a model that is named, or those that requests ask for.
    fn with_models(self) -> Result<Self, ConfigError> {
        if self.config.models.is_empty() && !self.config.demand.on {
            Err(ConfigError::NoModel)
        } else {
            Ok(self)
        }
    }
}

/// A flag overrides the file, and so does the environment.
fn combine(file: &File, flags: &Flags, environment: &Environment) -> Result<Loaded, ConfigError> {
    let settings = &file.settings;
    let server = server(&settings.server, flags, environment)?;
    let demand = Demand::new(&settings.models, &server.host);
    let (models, max_loaded) = (models(settings, flags)?, settings.models.max_loaded);
    if models.len() > max_loaded {
        let problem = format!("is {max_loaded}, but {} models are to be served", models.len());
        return Err(file.refuse("models.max_loaded", problem).into());
    }
    let queue = &settings.batch_queue;
    let workers = workers(&settings.workers, flags)?;
    let stream_registry = stream_registry(&settings.stream_registry, places(&workers, &settings.worker));
    let config = Config {
        models,
        max_loaded,
        demand,
        server,
        workers,
        memory: settings.memory,
        worker: settings.worker,
        prefix_cache: settings.prefix_cache,
        speculation: settings.speculation.clone(),
        batch_queue: BatchQueue {
            max_batch_size: queue.max_batch_size,
            flush_interval: queue.flush_interval_ms,
        },
        stream_registry,
        rate_limits: rate_limits(&settings.rate_limits),
        operations: operations(&settings.operations),
        verify: settings.cache.verify,
        cpu: settings.cpu,
        telemetry: telemetry_settings::of(file, flags, environment)?,
    };
    exposure::check(&config.server)?;
    let overridden = Overridden::of(settings, environment);
    let warnings = warnings::of(&config, overridden);
    Ok(Loaded { config, warnings, path: file.path().to_owned() })
}

/// Those of the flags, else the file's one, if it has one.
fn models(settings: &Settings, flags: &Flags) -> Result<Vec<String>, ConfigError> {
    let wrong = |problem: String| ConfigError::Flag { flag: "model", problem };
    for (i, model) in flags.models.iter().enumerate() {
        if model.trim().is_empty() {
            return Err(wrong("is empty".into()));
        }
        if flags.models[..i].contains(model) {
            return Err(wrong(format!("names `{model}` twice")));
        }
    }
    if flags.models.is_empty() {
        return Ok(settings.model.iter().cloned().collect());
    }
    Ok(flags.models.clone())
}

fn server(
    settings: &settings::Server,
    flags: &Flags,
    environment: &Environment,
) -> Result<Server, ConfigError> {
    let file_keys = |path: &Option<String>, kind| match path {
        Some(path) => Keys::read(path, kind),
        None => Ok(Keys::default()),
    };
    let tls = match (&settings.tls.cert_file, &settings.tls.key_file) {
        (Some(cert), Some(key)) => Some(Tls::read(cert, key)?),
        _ => None,
    };
    Ok(Server {
        host: flags.host.clone().unwrap_or_else(|| settings.host.clone()),
        port: flags.port.unwrap_or(settings.port),
        threads: settings.threads,
        max_body_bytes: settings.max_body_bytes as usize,
        drain_timeout: settings.drain_timeout_ms,
        allow_insecure: flags.allow_insecure || settings.allow_insecure,
        tls,
        api_keys: match environment.api_keys()? {
            Some(keys) => keys,
            None => file_keys(&settings.api_keys_file, KeyKind::Api)?,
        },
        admin_keys: match environment.admin_keys()? {
            Some(keys) => keys,
            None => file_keys(&settings.admin_key_file, KeyKind::Admin)?,
        },
        connections: Connections {
            max_connections: settings.max_connections,
            max_connections_per_address: settings.max_connections_per_address,
            max_header_bytes: settings.max_header_bytes as usize,
            max_headers: settings.max_headers,
            header_timeout: settings.header_timeout_ms,
            idle_timeout: settings.idle_timeout_ms,
            slow_consumer_timeout: settings.slow_consumer_timeout_ms,
        },
        body_timeout: settings.body_timeout_ms,
        sse_keepalive: settings.sse_keepalive_ms,
        request_memory: usize::try_from(settings.request_memory_bytes).unwrap_or(usize::MAX),
        allowed_hosts: settings.allowed_hosts.clone(),
        allowed_origins: settings.allowed_origins.clone(),
    })
}

fn workers(settings: &settings::Workers, flags: &Flags) -> Result<Workers, ConfigError> {
    let count = flags.workers.unwrap_or(settings.count);
    if !(1..=MAX_WORKERS).contains(&(count as u64)) {
        let problem = format!("is {count}, but must be from 1 to {MAX_WORKERS}");
        return Err(ConfigError::Flag { flag: "workers", problem });
    }
    Ok(Workers {
        count,
        ring_bytes: settings.ring_bytes,
        connect_timeout: settings.connect_timeout_ms,
        load_timeout: settings.load_timeout_ms,
        heartbeat_timeout: settings.heartbeat_timeout_ms,
        step_timeout: settings.step_timeout_ms,
        recovery_timeout: settings.recovery_timeout_ms,
        restart_backoff: settings.restart_backoff_ms..=settings.max_restart_backoff_ms,
        crash_loop_deaths: settings.crash_loop_deaths,
        crash_loop_window: settings.crash_loop_window_ms,
        binary: flags.worker_bin.clone(),
        store: flags.store.clone(),
    })
}

fn operations(settings: &settings::Operations) -> Operations {
    Operations {
        max_in_flight: settings.max_in_flight,
        max_waiting: settings.max_waiting,
        wait_timeout: settings.wait_timeout_ms,
    }
}

/// The least limit of streams where none is set: so few that hardly any machine is overloaded by them, and enough that
/// batching pays.
const MIN_STREAMS: usize = 5;

/// Sequences that a model's workers run at the same time.
pub(super) fn places(workers: &Workers, worker: &Worker) -> usize {
    workers.count.saturating_mul(worker.max_num_seqs as usize)
}

/// `places` is where the limit of streams begins, within its range.
fn stream_registry(settings: &settings::StreamRegistry, places: usize) -> StreamRegistry {
    let limits = &settings.adaptive_limits;
    let max_streams = limits.max_streams;
    let min_streams = limits.min_streams.unwrap_or(MIN_STREAMS).min(max_streams);
    StreamRegistry {
        min_streams,
        max_streams,
        start_streams: places.clamp(min_streams, max_streams),
        first_token_target: limits.first_token_target_ms,
        max_waiting: settings.max_waiting,
        max_waiting_tokens: settings.max_waiting_tokens,
        wait_timeout: settings.wait_timeout_ms,
        credit_chunks: settings.credit_chunks,
    }
}

/// 0 is no limit.
fn rate_limits(settings: &settings::RateLimits) -> RateLimits {
    let limit = |per_minute: u64| Some(per_minute).filter(|per_minute| *per_minute > 0);
    RateLimits {
        requests_per_minute: limit(settings.requests_per_minute),
        tokens_per_minute: limit(settings.tokens_per_minute),
    }
}
