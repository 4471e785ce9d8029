//! Models that come and go with requests.

use std::time::Duration;

use settings::OnDemand;

use super::is_loopback;

/// Models that come and go with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// A request loads a stored model that is not loaded.
    pub on: bool,
    /// Time without a request after which a model is unloaded; `None`: never.
    pub idle_ttl: Option<Duration>,
    /// Models that were named at the start or loaded by an administrator are pinned.
    pub pin_named: bool,
    /// Longest wait of a request for room for its model.
    pub wait_timeout: Duration,
}

impl Demand {
    /// What the file says, for a server that listens on `host`.
    pub(super) fn new(settings: &settings::Models, host: &str) -> Self {
        let ttl = settings.idle_ttl_ms;
        Self {
            on: match settings.on_demand {
                OnDemand::Auto => is_loopback(host),
                OnDemand::On => true,
                OnDemand::Off => false,
            },
            idle_ttl: (!ttl.is_zero()).then_some(ttl),
            pin_named: settings.pin_named,
            wait_timeout: settings.wait_timeout_ms,
        }
    }
}
