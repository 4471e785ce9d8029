//! The file and the flags together.

use std::{env, path::Path};

use settings::{File, MAX_WORKERS, Settings};
use tracing::warn;

use super::{
    ADMIN_KEY_VARIABLE, AdminKey, BatchQueue, Config, ConfigError, Connections, Server, StreamRegistry,
    Workers, telemetry_settings,
};
use crate::cli::Flags;

impl Config {
    /// Reads the file that `flags` names (or the default one if it exists) and applies the flags.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        let file = File::load(flags.config.as_deref())?;
        if file.settings.stream_registry.adaptive_limits.min_streams.is_some() {
            warn!(
                "`stream_registry.adaptive_limits.min_streams` has no effect: the limit does not adapt yet"
            );
        }
        let mut config = combine(&file, flags)?;
        if let Some(key) = env::var_os(ADMIN_KEY_VARIABLE) {
            config.server.admin_key = Some(AdminKey::new(&key.to_string_lossy(), ADMIN_KEY_VARIABLE)?);
        }
        Ok(config)
    }

    /// [`Config::load`] of a text; `path` is for messages.
    pub fn from_text(path: &Path, text: &str, flags: &Flags) -> Result<Self, ConfigError> {
        combine(&File::parse(path, text)?, flags)
    }
}

/// A flag overrides the file.
fn combine(file: &File, flags: &Flags) -> Result<Config, ConfigError> {
    let settings = &file.settings;
    let (models, max_loaded) = (models(settings, flags)?, settings.models.max_loaded);
    if models.len() > max_loaded {
        let problem = format!("is {max_loaded}, but {} models are to be served", models.len());
        return Err(file.refuse("models.max_loaded", problem).into());
    }
    let queue = &settings.batch_queue;
    Ok(Config {
        models,
        max_loaded,
        server: server(&settings.server, flags)?,
        workers: workers(&settings.workers, flags)?,
        worker: settings.worker,
        batch_queue: BatchQueue {
            max_batch_size: queue.max_batch_size,
            flush_interval: queue.flush_interval_ms,
        },
        stream_registry: stream_registry(&settings.stream_registry),
        verify: settings.cache.verify,
        cpu: settings.cpu,
        telemetry: telemetry_settings::of(file, flags)?,
    })
}

/// Those of the flags, else the file's one.
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
    match &settings.model {
        _ if !flags.models.is_empty() => Ok(flags.models.clone()),
        Some(model) => Ok(vec![model.clone()]),
        None => Err(ConfigError::NoModel),
    }
}

fn server(settings: &settings::Server, flags: &Flags) -> Result<Server, ConfigError> {
    Ok(Server {
        host: flags.host.clone().unwrap_or_else(|| settings.host.clone()),
        port: flags.port.unwrap_or(settings.port),
        max_body_bytes: settings.max_body_bytes as usize,
        drain_timeout: settings.drain_timeout_ms,
        admin_key: settings.admin_key_file.as_deref().map(AdminKey::read).transpose()?,
        connections: Connections {
            max_connections: settings.max_connections,
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
        restart_backoff: settings.restart_backoff_ms..=settings.max_restart_backoff_ms,
        crash_loop_deaths: settings.crash_loop_deaths,
        crash_loop_window: settings.crash_loop_window_ms,
        binary: flags.worker_bin.clone(),
        store: flags.store.clone(),
    })
}

fn stream_registry(settings: &settings::StreamRegistry) -> StreamRegistry {
    let limits = &settings.adaptive_limits;
    StreamRegistry {
        min_streams: limits.min_streams.unwrap_or(1),
        max_streams: limits.max_streams,
        max_waiting: settings.max_waiting,
        wait_timeout: settings.wait_timeout_ms,
        credit_chunks: settings.credit_chunks,
    }
}
