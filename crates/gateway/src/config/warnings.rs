//! What a configuration says that has no effect, or is dangerous.

use settings::Settings;

use super::{
    Config, Environment,
    exposure::{Exposure, exposure},
};

/// What the environment says instead of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Overridden {
    api_keys: bool,
    admin_key: bool,
}

impl Overridden {
    /// Of what both say.
    pub(super) fn of(settings: &Settings, environment: &Environment) -> Self {
        let server = &settings.server;
        let api_keys = environment.api_keys.is_some() || environment.api_key.is_some();
        Self {
            api_keys: server.api_keys_file.is_some() && api_keys,
            admin_key: server.admin_key_file.is_some() && environment.admin_key.is_some(),
        }
    }
}

/// Each a sentence without its full stop.
pub(super) fn of(config: &Config, overridden: Overridden) -> Vec<String> {
    let mut warnings = without_effect(config, overridden);
    warnings.extend(dangerous(config));
    warnings
}

fn without_effect(config: &Config, overridden: Overridden) -> Vec<String> {
    let server = &config.server;
    let protected = exposure(server) != Exposure::Open;
    let rows = [
        (
            overridden.api_keys,
            "`server.api_keys_file` has no effect: KR_API_KEYS or KR_API_KEY in the environment overrides it",
        ),
        (
            overridden.admin_key,
            "`server.admin_key_file` has no effect: KR_ADMIN_KEY in the environment overrides it",
        ),
        (
            !config.prefix_cache.enabled && config.prefix_cache.disk_max_bytes > 0,
            "`prefix_cache.disk_max_bytes` has no effect: `prefix_cache.enabled` is false",
        ),
        (
            !config.speculation.draft_models.is_empty() && config.speculation.max_draft_tokens == 0,
            "`speculation.draft_models` has no effect: `speculation.max_draft_tokens` is 0",
        ),
        (
            server.allow_insecure && protected,
            "`server.allow_insecure` has no effect: the server listens on loopback, or has API keys or TLS; \
             remove it, so that it can't allow anything later",
        ),
    ];
    rows.into_iter().filter(|(holds, _)| *holds).map(|(_, text)| text.to_owned()).collect()
}

fn dangerous(config: &Config) -> Vec<String> {
    let server = &config.server;
    let has_star = |list: &[String]| list.iter().any(|it| it == "*");
    let mut warnings = Vec::new();
    let exposed = match exposure(server) {
        Exposure::Loopback | Exposure::Protected => None,
        Exposure::KeysOnly => {
            Some("API keys cross the network as plain text; set `server.tls`, or put TLS in front")
        }
        Exposure::TlsOnly => Some("there are no API keys: everybody who can reach it may use it"),
        Exposure::Open => Some("there are neither API keys nor TLS: everybody who can reach it may use it"),
    };
    if let Some(problem) = exposed {
        warnings.push(format!("the server listens on {}, and {problem}", server.host));
    }
    if has_star(&server.allowed_hosts) {
        warnings.push(
            "`server.allowed_hosts` has \"*\": a web page that makes its own name point here can use the server"
                .to_owned(),
        );
    }
    if has_star(&server.allowed_origins) && server.api_keys.is_empty() {
        warnings.push(
            "`server.allowed_origins` has \"*\", and there are no API keys: every web page can use the server from \
             its visitors' browsers"
                .to_owned(),
        );
    }
    if let Some(name) = server.admin_keys.overlap(&server.api_keys) {
        warnings.push(format!(
            "the admin key `{name}` is an API key as well: who has it as the latter may load and unload models"
        ));
    }
    if config.worker.special_tokens_in_content {
        warnings.push(
            "`worker.special_tokens_in_content` is on: clients can write control tokens, and so forge turns of a chat"
                .to_owned(),
        );
    }
    warnings
}
