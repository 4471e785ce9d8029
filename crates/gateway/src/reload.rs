//! SIGHUP: the configuration is read again, and what can change while the gateway runs does.
//!
//! ```text
//! SIGHUP ─► Config::load ─► diff, adopt ─► App, log
//!              └ a mistake: nothing changes, and the log says where it is
//! ```

use tokio::{signal::unix::Signal, task::spawn_blocking};
use tracing::{error, info, warn};

use crate::{
    cli::Flags,
    config::{self, Changes, Config, ConfigError},
    http::App,
    telemetry::LogFilter,
};

/// Applies new configurations to a gateway that runs.
#[derive(Debug)]
pub struct Reloader {
    flags: Flags,
    running: Config,
    app: App,
    log: LogFilter,
}

impl Reloader {
    /// For the gateway `app`, which was started with `flags` and follows `running`.
    pub fn new(flags: Flags, running: Config, app: App, log: LogFilter) -> Self {
        Self { flags, running, app, log }
    }

    /// Reads the configuration again with each signal.
    pub async fn run(mut self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            let flags = self.flags.clone();
            // Files may be on a slow disk.
            let loaded = match spawn_blocking(move || Config::load(&flags)).await {
                Ok(loaded) => loaded,
                Err(error) => {
                    error!(%error, "the configuration could not be read again");
                    continue;
                }
            };
            let applied = loaded.and_then(|loaded| {
                let changes = self.apply(&loaded.config)?;
                Ok((changes, loaded.warnings))
            });
            match applied {
                Ok((changes, warnings)) => report(&changes, &warnings),
                Err(error) => {
                    let error = anyhow::Error::new(error);
                    error!("the configuration was read again and nothing was changed: {error:#}");
                }
            }
        }
    }

    /// Follows `new` as far as that is possible without a restart, and says what that means. All of it or nothing.
    ///
    /// # Errors
    /// The new configuration would leave an address open that the gateway listens on.
    pub fn apply(&mut self, new: &Config) -> Result<Changes, ConfigError> {
        let adopted = config::adopt(&self.running, new)?;
        let changes = config::diff(&self.running, new);
        self.app.reconfigure(&adopted);
        self.log.set(&adopted.log_filter);
        self.running = adopted;
        Ok(changes)
    }
}

fn report(changes: &Changes, warnings: &[String]) {
    let list = |change: &config::Change| format!("{} = {}", change.key, change.to);
    let applied: Vec<_> = changes.live.iter().map(list).collect();
    match applied.is_empty() {
        true => info!("the configuration was read again; nothing has changed that can change while it runs"),
        false => info!(changed = applied.join(", "), "the configuration was read again"),
    }
    for change in &changes.after_restart {
        warn!("{} changed from {} to {}: takes effect after a restart", change.key, change.from, change.to);
    }
    for warning in warnings {
        warn!("{warning}");
    }
}
