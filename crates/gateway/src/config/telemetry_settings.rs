//! What is logged and which traces are exported, in the words of the `telemetry` crate.

use settings::File;
use telemetry::{LogFilter, LogFormat, Settings, Traces};

use super::{ConfigError, Environment};
use crate::cli::Flags;

/// A flag overrides the file, and so does the environment.
pub(super) fn of(file: &File, flags: &Flags, environment: &Environment) -> Result<Settings, ConfigError> {
    let settings = &file.settings.telemetry;
    let format = match settings.log_format {
        settings::LogFormat::Text => LogFormat::Text,
        settings::LogFormat::Json => LogFormat::Json,
    };
    let traces = match &settings.otlp_endpoint {
        Some(endpoint) => {
            check(file, endpoint)?;
            Some(Traces { endpoint: endpoint.clone(), sample_percent: settings.trace_sample_percent })
        }
        None => None,
    };
    Ok(Settings {
        filter: filter(file, environment)?,
        format: flags.log_format.unwrap_or(format),
        access_log: settings.access_log,
        traces,
    })
}

/// A `RUST_LOG` that can't be used is passed over: other programs read it, too.
fn filter(file: &File, environment: &Environment) -> Result<String, ConfigError> {
    let filter = &file.settings.telemetry.log_filter;
    LogFilter::check(filter).map_err(|error| {
        let problem = format!("is `{filter}`, which is not a filter: {error}; try `info`");
        file.refuse("telemetry.log_filter", problem)
    })?;
    let beats = environment.log.as_ref().filter(|text| LogFilter::check(text).is_ok());
    Ok(beats.unwrap_or(filter).clone())
}

/// Spans are sent without TLS.
fn check(file: &File, endpoint: &str) -> Result<(), ConfigError> {
    let rest = endpoint.strip_prefix("http://").unwrap_or_default();
    let usable =
        !rest.is_empty() && !rest.starts_with('/') && rest.bytes().all(|byte| byte.is_ascii_graphic());
    if usable {
        return Ok(());
    }
    let problem = format!(
        "is `{}`, but must be the address of a collector that takes OTLP over HTTP, such as \
         http://127.0.0.1:4318; TLS is not supported here, so run a collector on this machine or in its network",
        endpoint.escape_debug()
    );
    Err(file.refuse("telemetry.otlp_endpoint", problem).into())
}
